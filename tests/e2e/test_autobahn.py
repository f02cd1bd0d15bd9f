"""What counts as a difference between two runs of the Autobahn cases, and how many cases prove anything."""

from __future__ import annotations

import pytest

from tests.e2e import autobahn
from tests.e2e.autobahn import Outcome, differences, outcomes_of, table

FINE = Outcome("OK", "OK", 1000)


def test_a_case_that_ends_otherwise_or_not_at_all_is_a_difference() -> None:
    direct = {"1.1.1": FINE, "1.1.2": FINE, "2.10": FINE, "2.9": FINE, "7.1.5": Outcome("FAILED", "WRONG CODE", 1002)}
    proxied = direct | {"2.10": Outcome("OK", "OK", 1006), "2.9": Outcome("OK", "UNCLEAN", 1000)}
    del proxied["1.1.2"]
    assert differences(direct, direct) == []
    assert differences(direct, proxied) == [
        "1.1.2: directly OK, closing OK, code 1000; through the proxy not run",
        "2.9: directly OK, closing OK, code 1000; through the proxy OK, closing UNCLEAN, code 1000",
        "2.10: directly OK, closing OK, code 1000; through the proxy OK, closing OK, code 1006",
    ]
    assert table(direct, proxied).splitlines()[-1].split() == ["all", "5", "2", "3", "4", "OK,", "1", "FAILED"]


def test_a_report_is_read_by_case() -> None:
    found = {"behavior": "OK", "behaviorClose": "INFORMATIONAL", "duration": 3, "remoteCloseCode": None}
    assert outcomes_of({"some server": {"7.1.6": found}}) == {"7.1.6": Outcome("OK", "INFORMATIONAL", 0)}


@pytest.mark.parametrize(("found", "status"), [(FINE, 0), (Outcome("FAILED", "OK", 1000), 1)])
def test_a_difference_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Outcome, status: int
) -> None:
    direct = {f"1.{number}": FINE for number in range(autobahn.FEWEST_CASES[True])}
    monkeypatch.setattr(autobahn, "KOSOKU", autobahn.ROOT)
    monkeypatch.setattr(autobahn, "compare", lambda *_: (direct, direct | {"1.7": found}))
    assert autobahn.main(["--quick"]) == status
    assert ("1.7: directly" in capsys.readouterr().out) == bool(status)


def test_too_few_cases_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autobahn, "KOSOKU", autobahn.ROOT)
    monkeypatch.setattr(autobahn, "compare", lambda *_: ({"1.1.1": FINE}, {"1.1.1": FINE}))
    assert autobahn.main([]) == 1
