"""control/cli/output.py: what the API says, line by line."""

from control.cli.output import render_events, render_explanation, render_preview

NODE = {"address": "10.0.0.5:6379", "error": "", "sessions": 12, "ends": 3, "users": []}
ENDING = {
    "id": 7, "address": "10.0.0.9", "user": "app", "subject": "CN=app", "serial": "01",
    "then": {"action": "login", "reason": "matched", "user": "alice"},
}  # fmt: skip
LOCAL = {
    **ENDING, "address": "", "subject": "", "user": "",
    "then": {"action": "refuse", "reason": "no_certificate", "user": ""},
}  # fmt: skip
WAS = {"action": "login", "reason": "matched", "users": ["alice"]}
WILL = {"action": "refuse", "reason": "no_binding", "users": []}


def test_a_preview_is_told_in_lines() -> None:
    """What goes, what comes, who is cut and what it is then; and what the lists leave out."""
    database = {
        "bdb_name": "orders", "added": ["set enforce on"], "removed": ["set enforce shadow"],
        "lines_added": 1, "lines_removed": 1,
        "nodes": [
            {**NODE, "ending": [ENDING, LOCAL],
             "users": [{"name": "app", "passwords": 2, "nopass": False},
                       {"name": "old", "passwords": 0, "nopass": True}],
             "refused": [{"user": "bob", "line": "user bob on +x", "why": "Unknown command"},
                         {"user": "", "line": "set x y", "why": "no setting"}]},
            {"address": "10.0.0.6:6379", "error": "UNREACHABLE refused"},
        ],
        "certificates": [{"subject": "CN=x", "before": WAS, "after": WILL}],
        "certificates_changed": 4,
        "effects": [{"text": "app loses orders", "cuts": True, "grave": False},
                    {"text": "bob gets orders", "cuts": False, "grave": False}],
    }  # fmt: skip
    assert list(render_preview([database], lines=True)) == [
        "orders:",
        "  ! app loses orders",
        "  bob gets orders",
        "  - set enforce shadow",
        "  + set enforce on",
        "  server 10.0.0.5:6379 refuses the user bob: Unknown command",
        "  server 10.0.0.5:6379 refuses 'set x y': no setting",
        "  10.0.0.5:6379: 3 of 12 sessions end",
        "    app from 10.0.0.9 (CN=app) -> alice",
        "    nobody from a unix socket -> refuse (no_certificate)",
        "    and 1 more sessions",
        "    user app loses its password (2 passwords)",
        "    user old loses its password (needs no password)",
        "  10.0.0.6:6379: not known: UNREACHABLE refused",
        "  certificate CN=x: alice -> refuse (no_binding)",
        "  and 3 more certificates",
    ]


def test_a_change_of_no_policy_is_told_too() -> None:
    """Rather than nothing."""
    assert list(render_preview([])) == ["no policy changes"]


def test_an_explanation_ends_with_the_decision() -> None:
    """Behind the steps."""
    found = {"trace": ["a", "b"], "action": "login", "users": ["alice"]}
    assert list(render_explanation(found)) == ["a", "b", "decision: login alice"]


def test_an_event_is_a_line() -> None:
    """When, what, and what is known of it, without what only programs read."""
    event = {
        "time": "2026-11-25T03:00:12Z", "type": "client_refused", "severity": "WARNING",
        "reason": "no_binding", "subject": "CN=x", "cert": "ab", "seq": 7,
    }  # fmt: skip
    assert list(render_events([event])) == [
        "2026-11-25T03:00:12Z client_refused reason=no_binding subject=CN=x"
    ]
