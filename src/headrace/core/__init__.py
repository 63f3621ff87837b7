"""Vocabulary of headrace: the frozen records that cross layers. Standard library only."""
