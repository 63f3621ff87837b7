"""The official `openai` client's embeddings against `headrace serve` with the real model."""

from __future__ import annotations

from itertools import product

from served_model import ServedModel

QUESTIONS = ["Best way to cook rice", "What is the capital of France?"]
ANSWERS = [
    "Rinse the grains, add twice as much water, and simmer for 15 minutes.",
    "Paris is the seat of the French government.",
]


def test_vectors_of_one_model(served: ServedModel) -> None:
    with served.openai() as client:
        likenesses = client.embeddings.create(
            model=served.model, input=QUESTIONS + ANSWERS, extra_body={"pooling": "mean"}
        ).data
        together = client.embeddings.create(model=served.model, input=QUESTIONS + ANSWERS).data
        alone = [
            client.embeddings.create(
                model=served.model, input=text, encoding_format="float", dimensions=size
            ).data[0]
            for text, size in zip(QUESTIONS, (896, 64), strict=True)
        ]
    vectors = [entry.embedding for entry in together]
    assert [len(vector) for vector in vectors] == [896] * 4
    assert alone[0].embedding == vectors[0], "float and base64, alone and beside others"
    assert len(alone[1].embedding) == 64
    for vector in (*vectors, alone[1].embedding):
        assert abs(sum(value * value for value in vector) - 1) < 1e-5
    means = [entry.embedding for entry in likenesses]
    likeness = {
        pair: sum(a * b for a, b in zip(means[pair[0]], means[2 + pair[1]], strict=True))
        for pair in product((0, 1), (0, 1))
    }
    assert likeness[0, 0] > likeness[0, 1]
    assert likeness[1, 1] > likeness[1, 0]
