"""What several hosts cost, told of figures that are made up: the lines are found, and the page says what follows."""

from bench import hosts

MB = 1e6


def job(rows: int, count: int) -> dict:
    """A job that needs exactly what a model of straight lines says; on one host it imports for 3 s besides."""
    share, sent = rows / count, (2 - 1 / count) * hosts.histograms() + MB * count
    return {
        "rows": rows,
        "hosts": count,
        "memory": 200 * MB + 100 * share,
        "cpu": (3 if count == 1 else 1) + 2e-6 * share,
    } | {
        "sent": sent,
        "tasks": 10 + 20 * count,
        "files": 16,
    }


def jobs() -> list[dict]:
    return [job(rows, count) for rows in hosts.SIZES for count in (1, *hosts.HOSTS, hosts.HELD_OUT)]


def test_histograms_are_those_of_one_child_of_two():
    # The root, then one of two, two of four … sixteen of thirty-two.
    assert hosts.histograms() == 20 * (1 + 1 + 2 + 4 + 8 + 16) * 10 * 256 * 16


def test_the_model_finds_what_the_figures_were_made_of():
    needs = hosts.Model(jobs()).needs(8_000_000, 64)
    made = job(8_000_000, 64)
    assert all(abs(needs[name] / made[name] - 1) < 1e-6 for name in needs)


def test_more_hosts_pay_for_more_rows():
    model = hosts.Model(jobs())
    assert hosts.best(model, 2_000_000) < hosts.best(model, 200_000_000)
    few, many = (model.seconds(2_000_000, count) for count in (2, 64))
    assert many["rows"] < few["rows"]
    assert many["download"] == few["download"] / 32
    # Each of 20 trees has 6 levels, and of 64 hosts 127 steps of 0.2 ms in each.
    assert abs(many["ring"] - 20 * 6 * 127 * 2e-4) < 1e-9
    assert many["fixed"] == few["fixed"] > 3


def test_in_a_ring_of_two_a_host_sends_half_of_the_sums_and_then_all():
    assert hosts.ring(2) == 1.5 * hosts.histograms()


def test_the_page_compares_what_was_foretold_and_names_what_is_too_much():
    page = hosts.page(jobs(), "2026-01-01")
    assert "| 2,000,000 | 64 |" in page
    assert "+0%" in page or "-0%" in page
    assert "200 MB + 100 bytes a row" in page
    assert "(2 - 1/n) x 26 MB + 1.00 MB n" in page
    assert "3.0 s of CPU, before" in page
    greedy = [one | {"memory": 30 * one["memory"]} for one in jobs()]
    assert "**too much**" in hosts.page(greedy, "2026-01-01")
