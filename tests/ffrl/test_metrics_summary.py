"""Mean and spread over seeds, of one data set only."""

import io
import json
import math

import pytest
from rich.console import Console

from ffrl.errors import UserError
from ffrl.metrics.summary import SeedResult, Spread, as_json, as_rows, as_table, summarise


def result(seed: int, checksum: str = "a" * 64, **values: float) -> SeedResult:
    return SeedResult(seed, checksum, values or {"flow": 0.3})


def test_mean_and_sd_by_hand() -> None:
    """1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, /2 = 7."""
    found = summarise([result(2, flow=6.0, mig=0.5), result(0, flow=1.0, mig=0.5), result(1, flow=2.0, mig=0.5)])
    assert found.values["flow"].mean == pytest.approx(3)
    assert found.values["flow"].sd == pytest.approx(math.sqrt(7))
    assert found.values["mig"] == Spread(0.5, 0.0)
    assert found.seeds == (0, 1, 2)
    assert as_rows(found, digits=2) == [("flow", "3.00", "2.65"), ("mig", "0.50", "0.00")]


def test_one_seed_has_no_spread() -> None:
    found = summarise([result(4)])
    assert found.values["flow"] == Spread(0.3, None)
    assert as_rows(found) == [("flow", "0.300", "–")]
    assert json.loads(json.dumps(as_json(found)))["values"] == {"flow": {"mean": 0.3, "sd": None}}


def test_table_and_json() -> None:
    found = summarise([result(0, flow=0.25), result(1, flow=0.75)])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(found, "two seeds"))
    text = " ".join(console.export_text().split())
    for part in ("two seeds", "flow", "0.500", "0.354", "2 seeds, data aaaaaaaaaaaa"):
        assert part in text
    assert as_json(found) == {
        "seeds": [0, 1],
        "data_checksum": "a" * 64,
        "values": {"flow": {"mean": 0.5, "sd": pytest.approx(math.sqrt(0.125))}},
    }
    console.print(as_table(summarise([result(0)]), "one"))
    assert "One seed: no spread is known." in " ".join(console.export_text().split())


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "expected at least one, found none"),
        ([result(0), result(1, "b" * 64)], f"SHA-256 {'a' * 64} as of seed 0, found {'b' * 64} of seed 1"),
        ([result(3), result(3)], "each seed once, found seed 3 2 times"),
        ([result(0, mig=1.0, dci=1.0), result(1, mig=1.0, sap=1.0)], r"found \['dci', 'sap'\] not in all"),
        ([result(0), result(1, flow=math.nan)], "expected finite numbers, found flow = nan of seed 1"),
        ([result(0, flow=math.inf)], "expected finite numbers, found flow = inf of seed 0"),
    ],
)
def test_what_cannot_be_summarised_is_refused(results: list[SeedResult], message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarise(results)
