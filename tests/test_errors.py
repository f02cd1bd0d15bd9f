from __future__ import annotations

import re

import pytest

from bgproxy import errors
from bgproxy.errors import BgproxyError, ControlError


def family(base: type[BgproxyError] = BgproxyError) -> list[type[BgproxyError]]:
    found = [base]
    for child in base.__subclasses__():
        found += family(child)
    # Other test modules may derive their own.
    return [cls for cls in found if cls.__module__ == errors.__name__]


def make(cls: type[BgproxyError]) -> BgproxyError:
    needed = {errors.SwitchRefused: {"failed": []}, errors.ConfigurationRefused: {"problems": []}}
    return cls("what happened", **needed.get(cls, {}))


def test_the_exit_codes_are_the_published_ones():
    codes = [
        errors.EXIT_OK,
        errors.EXIT_FAILED,
        errors.EXIT_USAGE,
        errors.EXIT_CONFIG,
        errors.EXIT_UNREACHABLE,
        errors.EXIT_REFUSED,
        errors.EXIT_CONFLICT,
        errors.EXIT_TIMEOUT,
    ]
    assert codes == list(range(8))


def test_the_tree_at_the_top_of_the_module_tells_the_truth():
    documented = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.search(r"── (\w+)\s+(?:(\d{3})\s+)?exit (\d)", line):
            documented[match[1]] = (match[2] and int(match[2]), int(match[3]))
    actual = {
        cls.__name__: (cls.status if issubclass(cls, ControlError) else None, cls.exit_code)
        for cls in family()
        if cls not in (BgproxyError, ControlError)
    }
    assert documented == actual


@pytest.mark.parametrize("cls", family(), ids=lambda cls: cls.__name__)
def test_an_error_is_its_sentence_and_has_no_hint_unless_given_one(cls):
    error = make(cls)
    assert str(error) == error.detail == "what happened"
    assert error.hint == ""
    assert error.exit_code != errors.EXIT_OK


def test_a_hint_says_what_to_do():
    assert errors.ConfigError("no", hint="do this").hint == "do this"


def test_every_answer_of_the_admin_api_has_a_code_of_its_own():
    codes = [cls.code for cls in family(ControlError) if issubclass(cls, ControlError)]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


def test_a_refusal_carries_every_failed_check():
    failed = [{"gate": "pool_health", "target": "green"}, {"gate": "workers", "target": "1"}]
    assert errors.SwitchRefused("no", failed=failed).extra == {"failed": failed}
    assert errors.BadRequest("no").extra == {}
    assert errors.StaleEpoch("no", extra={"epoch": 3}).extra == {"epoch": 3}
