"""What a job requires of its node: one text for each meaning."""

from __future__ import annotations

import pytest

from actors.domain.labels import from_labels, requirement, satisfies, to_labels


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("gpu", "gpu"),
        ("gpu=", "gpu"),
        (" ssd , gpu = a100 ", "gpu=a100,ssd"),
        ("a=b=c", "a=b=c"),
        ("a,a", "a"),
    ],
)
def test_equal_requirements_are_equal_texts(written: str, form: str) -> None:
    assert requirement(written) == form
    assert requirement(form) == form
    assert from_labels(to_labels(form)) == form


@pytest.mark.parametrize("written", ["=x", ",", "gpu,", "a b", "-x", "a=b\nc", "gpu=1,gpu=2", "x" * 64])
def test_what_is_no_label_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"expected|two values"):
        requirement(written)


def test_nothing_required_fits_every_node() -> None:
    assert to_labels("") == {} and satisfies("", {}) and satisfies("", {"gpu": "a100"})
    assert (
        satisfies("gpu", {"gpu": ""}) and not satisfies("gpu=a100", {"gpu": ""}) and not satisfies("gpu", {})
    )
