"""Network policies as they are typed, and the rules that follow."""

from __future__ import annotations

import pytest

from cove.errors import CoveError
from cove.planner.networks import outgoing
from cove.spec.policy import Allow, Policy, parse_policy, together

FORMS = {
    "allow=10.0.0.0/8": Allow("10.0.0.0/8"),
    "allow=10.0.0.0/8:443": Allow("10.0.0.0/8", 443, 443),
    "allow=10.0.0.0/8:80-90/udp": Allow("10.0.0.0/8", 80, 90, "udp"),
    "allow=10.0.0.1/32/icmp": Allow("10.0.0.1/32", protocol="icmp"),
    "allow=[fd00::/8]": Allow("fd00::/8"),
    "allow=[fd00::/8]:443/tcp": Allow("fd00::/8", 443, 443, "tcp"),
}


@pytest.mark.parametrize("text", FORMS)
def test_what_is_read_may_be_typed_again(text: str) -> None:
    assert parse_policy(text) == Policy((FORMS[text],))
    assert str(FORMS[text]) == text


def test_short_forms() -> None:
    assert parse_policy("allow=10.0.0.1:53/udp") == Policy((Allow("10.0.0.1/32", 53, 53, "udp"),))
    assert parse_policy("allow=fd00::1") == Policy((Allow("fd00::1/128"),))
    assert together(()) is None
    both = together(map(parse_policy, ("deny-all", "allow=dns", "allow=10.0.0.1", "allow=dns")))
    assert both is not None and both.words() == ("allow=10.0.0.1/32", "allow=dns")
    assert Policy().words() == ("deny-all",)


@pytest.mark.parametrize(
    "text",
    ["", "allow", "allow=", "deny", "allow=db", "allow=10.0.0.1/8", "allow=10.0.0.0/8:",
     "allow=10.0.0.0/8:70000", "allow=10.0.0.0/8:9-8", "allow=10.0.0.0/8:1/icmp", "allow=::/0:1:x",
     "allow=[fd00::/8]443", "allow=[fd00::/8", "allow=10.0.0.0/8 accept; drop"],
)  # fmt: skip
def test_words_that_are_refused(text: str) -> None:
    with pytest.raises(CoveError):
        parse_policy(text)


def test_rules_end_in_a_refusal() -> None:
    policy = Policy((Allow("10.0.0.0/8", 80, 90),), dns=True)
    ruled = outgoing.Ruled(7, policy, (("cvxb1", "10.1.0.2"), ("cvxb1", "fd00::2")), ("10.1.0.9",))
    text = outgoing.whole("cvxp", "cvx", [ruled], gone=[3])
    rules = [line.split(" m7 ")[1] for line in text.splitlines() if "rule inet cvxp m7" in line]
    assert rules[-1] == "drop" and rules.index("ip daddr 10.0.0.0/8 udp dport 80-90 accept") == 2
    assert "ip daddr 10.1.0.9 udp dport 53 accept" in rules
    assert (
        'senders6 { "cvxb1" . fd00::2 : goto m7 }' in text and "delete chain inet cvxp m3" in text
    )
