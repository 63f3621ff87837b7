"""Costs as FOCUS, the format that tools for cloud bills read: one line per kind of token.

In: CostLines. Out: rows of the Cost and Usage dataset, version 1.4, headrace's own columns last.
A line's cost is exact, tokens times price; the ledger rounds each call once, so the two differ by
at most half a nano-dollar a call.
Source: https://focus.finops.org/focus-specification/ and its examples for priced tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal

from headrace.economics.cost_report import CostLine
from headrace.economics.prices import LOCAL

FOCUS_COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart"),
    *("ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice"),
    *("EffectiveCost", "HostProviderName", "InvoiceDetailId", "InvoiceId", "InvoiceIssuerName"),
    *("ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingQuantity"),
    *("PricingUnit", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory"),
    *("ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId", "SkuMeter"),
    *("SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags"),
)
OWN_COLUMNS = (
    *("x_KeyId", "x_PriceId", "x_PriceState", "x_Task", "x_Tier", "x_TokenKind", "x_UsageSource"),
)

_METERS = {
    "input": "Input Tokens",
    "cached_input": "Cached Input Tokens",
    "cache_write": "Cache Write Tokens (5 minutes)",
    "cache_write_1h": "Cache Write Tokens (1 hour)",
    "output": "Output Tokens",
    "reasoning": "Reasoning Tokens",
}
# Tokens times nano-dollars per million of them: 10**-15 dollars.
_EXACT = Decimal(10) ** -15
_MTOK_SCALE = Decimal(10) ** -6
_NANO = Decimal(10) ** -9


def focus_rows(lines: Iterable[CostLine], account: str) -> Iterator[dict[str, str]]:
    """Rows by column; a null is an empty text. `account` names who is billed by providers."""
    for line in lines:
        yield _row(line, account)


def _row(line: CostLine, account: str) -> dict[str, str]:
    day = date.fromisoformat(line.day)
    first = day.replace(day=1)
    is_own = line.provider == LOCAL
    provider = "headrace" if is_own else line.provider
    price = _text(line.nano_usd_per_mtok * _NANO)
    cost = _text(line.tokens * line.nano_usd_per_mtok * _EXACT)
    meter = _METERS[line.kind]
    sku = f"{line.provider}/{line.model}/{line.kind}"
    values = {
        # Nobody is invoiced for a token of an own machine: its hours are paid elsewhere.
        "BilledCost": "0" if is_own else cost,
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _instant((first + timedelta(days=32)).replace(day=1)),
        "BillingPeriodStart": _instant(first),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{meter} of {line.model}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _instant(day + timedelta(days=1)),
        "ChargePeriodStart": _instant(day),
        "ConsumedQuantity": str(line.tokens),
        "ConsumedUnit": "Tokens",
        "ContractedCost": cost,
        "ContractedUnitPrice": price,
        "EffectiveCost": cost,
        "HostProviderName": provider,
        "InvoiceIssuerName": provider,
        "ListCost": cost,
        "ListUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingCurrency": "USD",
        "PricingQuantity": _text(line.tokens * _MTOK_SCALE),
        "PricingUnit": "1000000 Tokens",
        "ResourceId": line.model,
        "ResourceName": line.model,
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} inference",
        "ServiceProviderName": provider,
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": meter,
        "SkuPriceDetails": json.dumps({"x_ModelId": line.model, "x_TokenKind": line.kind}),
        "SkuPriceId": f"{line.price_id}/{line.kind}/{line.nano_usd_per_mtok}",
        "SubAccountId": line.tenant,
        "SubAccountName": line.tenant,
        "Tags": json.dumps(dict.fromkeys(line.tags, True)),
        "x_KeyId": line.key_id or "",
        "x_PriceId": line.price_id,
        "x_PriceState": line.price_state,
        "x_Task": line.task or "",
        "x_Tier": line.tier or "",
        "x_TokenKind": line.kind,
        "x_UsageSource": line.usage_source,
    }
    return {name: values.get(name, "") for name in (*FOCUS_COLUMNS, *OWN_COLUMNS)}


def _instant(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _text(number: Decimal) -> str:
    """All digits, no exponent, no zeros at the end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
