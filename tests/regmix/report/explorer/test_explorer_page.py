"""The explorer as a person uses it: in a real browser, from a file on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from regmix.choosing import Choosing
from regmix.config import FitConfig
from regmix.mixture import FloatArray, Mixture, MixtureFile
from regmix.objective import Kind, Objective
from regmix.report import write
from regmix.report.explorer import payload
from regmix.report.explorer.compact import Compact
from regmix.report.explorer.export import compact
from regmix.study import Study

AXE = resources.files("selenium_axe_python").joinpath("axe-core", "axe.min.js")
PATIENCE = 60.0
QUICK = FitConfig(regressor="gp", samples=500, top_k=20, repeats=1, bootstraps=0)


@dataclass(frozen=True)
class Session:
    """A browser, where its files go, and the script that started it."""

    driver: WebDriver
    downloads: Path
    service: ModuleType


class Page:
    """The explorer in a browser."""

    def __init__(self, session: Session, path: Path) -> None:
        self.session, self.driver, self.path = session, session.driver, path

    def open(self) -> Page:
        self.session.service.resize(self.driver, 1280)
        self.driver.get(self.path.as_uri())
        WebDriverWait(self.driver, PATIENCE).until(
            lambda d: d.execute_script("return !!document.querySelector('#x-profile svg')")
        )
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in which ``model`` is the explorer's and ``X`` its name space."""
        head = "const X = RegmixExplorer, model = X.model;"
        return self.driver.execute_script(head + script, *arguments)

    def weights(self) -> FloatArray:
        return np.array(self.js("return [...model.current]"))

    def domains(self) -> list[str]:
        return list(self.js("return model.domains"))

    def id(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, f"x-{name}")

    def slider(self, domain: str) -> WebElement:
        return self.labelled(f"Share of {domain}")

    def settle(self) -> None:
        """Wait until the page has drawn what it knows."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 90))"
        )

    def compared(self) -> list[str]:
        """What can be compared with, as the page has it at this moment."""
        found: list[str] = self.js(
            "return [...document.querySelectorAll('#x-compare option')].map(o => o.text)"
        )
        return found

    def click(self, name: str) -> None:
        """As a person would, but for the line at the top, which may lie over it."""
        self.press(self.id(name))

    def press(self, element: WebElement) -> None:
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        self.settle()
        element.click()

    def labelled(self, label: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, f'[aria-label="{label}"]')

    def status_after(self, name: str, words: str) -> str:
        self.click(name)
        WebDriverWait(self.driver, PATIENCE).until(lambda _: words in self.id("status").text)
        return self.id("status").text

    def downloaded(self, name: str) -> Path:
        path = self.session.downloads / name
        WebDriverWait(self.driver, PATIENCE).until(lambda _: path.exists())
        return path


@pytest.fixture(scope="module")
def session(
    browser_service: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    downloads = tmp_path_factory.mktemp("downloads")
    with browser_service.chromium(downloads) as driver:
        yield Session(driver, downloads, browser_service)


@pytest.fixture
def page(session: Session, convex_page: Path) -> Iterator[Page]:
    """The convex study's page, opened anew; whatever a test does, nothing may be complained of."""
    found = Page(session, convex_page).open()
    yield found
    assert complaints(session.driver) == []


def complaints(driver: WebDriver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: WebDriver) -> list[str]:
    """Addresses that were asked for since this was last looked at."""
    messages = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
    sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [m["params"]["request"]["url"] for m in sent]


def test_javascript_predicts_as_python_does(page: Page, everything: Any) -> None:
    small = compact(everything.problem, everything.region)
    text = payload.dumps(small.as_dict())
    x = everything.draw(1_000)
    mean, std = Compact.of(payload.loads(text)).predict(x)
    found = page.js(
        "const s = new X.Surrogate(X.readPayload({textContent: arguments[0]}));"
        "return arguments[1].map((x) => {"
        "  const p = s.predict(Float64Array.from(x)); return [[...p.mean], [...p.std]]; })",
        text,
        x.tolist(),
    )
    found = np.array(found)
    np.testing.assert_allclose(found[:, 0], mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], std, rtol=0, atol=1e-6)


def test_slopes_are_those_of_the_values(page: Page, everything: Any) -> None:
    """Every kind of part, and stand-ins of standard deviations, against central differences."""
    text = payload.dumps(compact(everything.problem, everything.region).as_dict())
    x = 0.02 + 0.92 * everything.draw(40)
    found = page.js(
        """const s = new X.Surrogate(X.readPayload({textContent: arguments[0]}));
        const rows = [...s.metrics.keys()], h = 1e-6;
        const total = (x) => rows.reduce((sum, i) => {
          const at = s.inputs(x);
          return sum + (i + 1) * s.mean(s.metrics[i], at) + (i + 2) * s.std(s.metrics[i], at);
        }, 0);
        return arguments[1].map((row) => {
          const x = Float64Array.from(row), at = s.inputs(x);
          const g = s.gradient(at, rows, rows.map((i) => s.std(s.metrics[i], at)),
            rows.map((i) => i + 1), rows.map((i) => i + 2));
          return [[...g], row.map((_, i) => {
            const up = x.slice(), down = x.slice();
            up[i] += h; down[i] -= h;
            return (total(up) - total(down)) / (2 * h);
          })];
        });""",
        text,
        x.tolist(),
    )
    mine, differences = np.array(found)[:, 0], np.array(found)[:, 1]
    assert np.abs(differences).max() > 1
    # A hinge or the end of what stand-ins were fitted to may fall between the two values.
    off = np.abs(mine - differences) / (1 + np.abs(differences))
    assert np.quantile(off, 0.98) < 1e-4


@pytest.mark.parametrize("kind", ["weighted", "relative", "worst"])
def test_objectives_are_joined_as_python_joins_them(
    page: Page, everything: Any, kind: Kind
) -> None:
    small = compact(everything.problem, everything.region)
    x = everything.draw(20)
    mean, std = small.predict(x)
    weights = np.array([0, 1, 2, 0.5, 0, 3, 1.0])
    signs, reference = [1, 1, -1, 1, -1, 1, 1], mean[0] + 0.1
    rows = np.flatnonzero(weights)
    names = [small.metrics[i].name for i in rows]
    objective = Objective(
        tuple(names),
        tuple(weights[rows] / weights.sum()),
        tuple(signs[i] for i in rows),
        kind,
        "r",
        tuple(reference[rows]),
    )
    truth = small.objective(x, objective)
    found = page.js(
        """const [kind, weights, signs, reference, means, stds, c] = arguments;
        const o = new X.Objective(kind, weights, signs, reference);
        const correlation = {shape: [c.length, c.length], data: c.flat()};
        return means.map((m, i) => Object.values(o.join(m, stds[i], correlation)));""",
        kind, weights.tolist(), signs, reference.tolist(), mean.tolist(), std.tolist(),
        small.correlation.tolist(),
    )  # fmt: skip
    np.testing.assert_allclose(np.array(found)[:, 0], truth.mean, atol=1e-12)
    np.testing.assert_allclose(np.array(found)[:, 1], truth.std, atol=1e-12)


def test_the_page_begins_with_what_the_report_proposes(page: Page, convex: Study) -> None:
    proposal = convex.latest_fit().proposal
    np.testing.assert_allclose(page.weights(), proposal.best.mixture.array(), atol=1e-12)
    mean, std = proposal.best.objective
    shown = float(page.id("objective").text)
    assert shown == pytest.approx(mean, abs=10 ** -len(page.id("objective").text.split(".")[1]))
    assert float(page.id("objective-std").text.removeprefix("± ")) == pytest.approx(std, rel=0.06)
    assert page.id("distance").text == f"{proposal.nearest_distance:.3f}"


def test_keys_move_a_share_and_the_predictions(page: Page, convex: Study) -> None:
    before, shown = page.weights(), page.id("objective").text
    slider = page.slider("math")
    page.js("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT * 40)
    page.settle()
    after = page.weights()
    moved = page.domains().index("math")
    assert after[moved] - before[moved] == pytest.approx(0.04, abs=1.1e-3)
    assert convex.space.contains(after).all()
    assert page.id("objective").text != shown
    assert slider.get_attribute("aria-valuetext") == f"{100 * after[moved]:.1f}%"
    assert Select(page.id("profile-domain")).first_selected_option.text == "math"
    page.click("undo")
    assert page.weights()[moved] == pytest.approx(after[moved] - 1e-3, abs=1e-3)


def test_a_mouse_drags_a_share(page: Page, convex: Study) -> None:
    slider = page.slider("web/high")
    page.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", slider)
    moved = page.domains().index("web/high")
    before = page.weights()[moved]
    top = float(slider.get_attribute("max") or 0)
    width = slider.size["width"]
    thumb = 8 + before / top * (width - 16) - width / 2
    drag = ActionChains(page.driver).move_to_element_with_offset(slider, round(thumb), 0)
    drag.click_and_hold().move_by_offset(20, 0).move_by_offset(20, 0).release().perform()
    page.settle()
    after = page.weights()
    expected = before + 40 / (width - 16) * top
    assert after[moved] == pytest.approx(expected, abs=0.02)
    assert convex.space.contains(after).all()
    page.click("undo")  # one movement, one step back
    assert page.weights()[moved] == pytest.approx(before, abs=1e-9)


def test_a_typed_share_goes_as_far_as_the_constraints_allow(page: Page, convex: Study) -> None:
    field = page.labelled("Share of books in per cent")
    for typed, expected in (("90", 0.16), ("0", 0.02)):  # the cap holds before the bound does
        page.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", field)
        field.send_keys(Keys.CONTROL + "a")  # a call of its own: the key is held to its end
        field.send_keys(typed, Keys.ENTER)
        near = pytest.approx(expected, abs=1e-6)
        WebDriverWait(page.driver, PATIENCE).until(lambda _, near=near: page.weights()[0] == near)
        page.settle()
        assert field.get_attribute("value") == f"{100 * expected:.1f}"  # and not what was typed
        assert convex.space.contains(page.weights()).all()
    assert "bounds.books" in page.id("active").text


def test_no_movement_ever_breaks_a_constraint(page: Page, convex: Study) -> None:
    """200 random movements of sliders, some domains on hold for a while."""
    found = page.js(
        """let seed = 7;
        const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
        const sliders = [...document.querySelectorAll('#x-sliders input[type=range]')];
        const holds = [...document.querySelectorAll('.x-hold')];
        const out = [];
        for (let n = 0; n < 200; n++) {
          if (n % 10 === 0) holds[Math.floor(random() * holds.length)].click();
          const s = sliders[Math.floor(random() * sliders.length)];
          const name = s.getAttribute('aria-label').slice(9);
          const held = [...model.held].filter((d) => model.domains[d] !== name)
            .map((d) => [d, model.current[d]]);
          const before = [...model.current];
          s.value = random() ** 2 * Number(s.max);
          s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change'));
          out.push({before, after: [...model.current], held});
        }
        return out;"""
    )
    after = np.array([m["after"] for m in found])
    before = np.array([m["before"] for m in found])
    assert convex.space.contains(after).all()
    assert (np.abs(after.sum(1) - 1) < 1e-12).all()
    held = [(i, d, w) for i, m in enumerate(found) for d, w in m["held"]]
    assert len(held) > 100
    assert max(abs(after[i, d] - w) for i, d, w in held) < 1e-9
    moved = np.abs(after - before).sum(1) > 1e-6
    assert moved.sum() > 100  # and not because nothing moved


def test_the_nearest_allowed_mixture_is_pythons(page: Page, convex: Study) -> None:
    """Projections onto the space, against a general solver's."""
    from scipy import optimize

    rng = np.random.default_rng(2)
    targets = rng.dirichlet(np.full(6, 0.4), 12)
    found = np.array(
        page.js("return arguments[0].map((x) => [...model.space.project(x)])", targets.tolist())
    )
    assert convex.space.contains(found).all()
    p = convex.space.polytope
    equal = np.vstack([np.ones(6), p.matrix[p.pinned]])
    rows = [
        optimize.LinearConstraint(p.matrix[~p.pinned], p.lower[~p.pinned], p.upper[~p.pinned]),
        optimize.LinearConstraint(equal, *[[1.0, *p.upper[p.pinned]]] * 2),
    ]
    for target, mine in zip(targets, found, strict=True):
        solved = optimize.minimize(
            lambda w, t=target: ((w - t) ** 2).sum(), convex.space.centre,
            jac=lambda w, t=target: 2 * (w - t), method="SLSQP", bounds=[(0, 1)] * 6,
            constraints=rows, options={"ftol": 1e-14, "maxiter": 300},
        )  # fmt: skip
        assert ((mine - target) ** 2).sum() <= solved.fun + 1e-8


def test_the_optimum_is_the_solvers(page: Page, convex: Study) -> None:
    """Convex: objective within 1e-5 of the certified one, mixture within 0.01 (total variation)."""
    proposal = convex.latest_fit().proposal
    assert proposal.method == "convex"
    assert proposal.active
    Select(page.id("start")).select_by_visible_text("best run")
    status = page.status_after("optimise", "Found")
    assert "same constraints" in status
    found = page.weights()
    problem = Choosing(convex, convex.fitted()).problem(convex.latest_fit())
    assert convex.space.contains(found).all()
    best = proposal.best.mixture.array()
    values = problem.value(np.array([found, best]))
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert 0.5 * np.abs(found - best).sum() < 0.01


def test_other_weights_have_another_optimum(page: Page, convex: Study) -> None:
    page.js("arguments[0].open = true", page.id("objective-panel"))
    before = page.weights()
    for name, weight in (("bpb/code", "0"), ("bpb/web", "0"), ("bpb/math", "1")):
        field = page.labelled(f"Weight of {name}")
        page.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", field)
        field.clear()
        field.send_keys(weight, Keys.TAB)
    page.settle()
    assert page.id("objective-text").text == "your objective"
    math_only = Objective(("bpb/math",), (1.0,), (1,))
    surrogate = convex.latest_fit().surrogate
    expected = surrogate.objective(page.weights()[None], math_only)
    shown = page.js("return model.objective(model.current)")
    assert shown["mean"] == pytest.approx(expected.mean[0], abs=1e-9)
    assert shown["std"] == pytest.approx(expected.std[0], abs=1e-9)
    page.status_after("optimise", "Found")
    after = page.weights()
    math = page.domains().index("math")
    assert after[math] > before[math] + 0.05
    cap = next(c for c in convex.space.constraints if c.name == "max_epochs.math").upper
    assert after[math] == pytest.approx(cap, abs=1e-3)
    page.click("reset-objective")
    assert page.id("objective-text").text == "the fit’s objective"


def test_kinds_of_objectives_and_wrong_weights(page: Page) -> None:
    page.js("arguments[0].open = true", page.id("objective-panel"))
    Select(page.id("kind")).select_by_value("worst")
    page.settle()
    assert page.js("return model.goal().kind") == "worst"
    page.status_after("optimise", "Found")
    value = page.js("return model.objective(model.current).mean")
    at = page.js(
        "return ['natural', 'uniform', 'best run'].map("
        "(n) => model.objective(model.allowed(model.mixture(n).weights)).mean)"
    )
    assert value < min(at)
    field = page.labelled("Weight of bpb/code")
    field.clear()
    field.send_keys("-3", Keys.TAB)
    assert "a weight is 0 or more" in page.id("status").text
    assert page.js("return model.settings.weights[0]") > 0


def test_the_mixture_is_a_file_that_loads(page: Page, convex: Study) -> None:
    page.slider("math").send_keys(Keys.ARROW_RIGHT * 7)
    name = page.id("name")
    name.clear()
    page.click("download")
    assert "give it a name" in page.id("status").text
    name.send_keys("1e-7")
    page.click("download")
    kept = MixtureFile.load(page.downloaded("1e-7.yaml"), convex.domains)
    assert kept.name == "1e-7"
    np.testing.assert_allclose(kept.mixture.array(), page.weights(), atol=1e-4)
    assert convex.space.violations(kept.mixture) == []
    fit = convex.latest_fit()
    assert kept.provenance["fit"] == fit.fit_id
    for metric, (mean, std) in fit.surrogate.predict_one(kept.mixture).items():
        assert kept.provenance["predicted"][metric]["mean"] == pytest.approx(mean, abs=1e-9)
        assert kept.provenance["predicted"][metric]["std"] == pytest.approx(std, abs=1e-9)


def test_far_from_the_runs_is_shaded_and_named(page: Page, convex: Study) -> None:
    x = convex.space.sample(
        200, np.random.default_rng(3), centre=np.full(6, 1 / 6), concentration=(0.05, 3.0)
    ).weights
    found = page.js("return arguments[0].map((x) => model.nearest(x))", x.tolist())
    runs, proposal = convex.fitted().x(), convex.latest_fit().proposal
    nearest = 0.5 * np.abs(x[:, None] - runs[None]).sum(2).min(1)
    np.testing.assert_allclose([f["distance"] for f in found], nearest, atol=1e-12)
    far = nearest > 1.5 * proposal.typical_distance
    assert 0 < far.sum() < 200
    assert [f["extrapolates"] for f in found] == far.tolist()
    for index, shown in ((int(np.argmax(nearest)), True), (int(np.argmin(nearest)), False)):
        page.js("model.set(Float64Array.from(arguments[0]))", x[index].tolist())
        page.settle()
        assert page.id("badge").is_displayed() == shown
        assert ("x-extrapolates" in str(page.id("app").get_attribute("class"))) == shown
    hatched = '#x-profile [fill="url(#x-hatch)"] rect'
    page.js("model.set(Float64Array.from(arguments[0]))", x[int(np.argmax(nearest))].tolist())
    WebDriverWait(page.driver, PATIENCE).until(lambda d: d.find_elements(By.CSS_SELECTOR, hatched))
    assert "extrapolation" in str(page.id("profile").get_attribute("aria-label"))


def test_pinned_mixtures_are_compared_and_removed(page: Page) -> None:
    page.click("pin")
    page.click("pin")
    WebDriverWait(page.driver, PATIENCE).until(
        lambda _: page.compared()[-2:] == ["what-if", "what-if-2"]
    )
    page.slider("math").send_keys(Keys.ARROW_RIGHT * 30)
    Select(page.id("compare")).select_by_visible_text("what-if")
    page.settle()
    gain = page.js("return model.objectiveGain()")
    own, other = (page.js(f"return model.objective({w})") for w in (
        "model.current", "model.mixture('what-if').weights"))  # fmt: skip
    assert gain["mean"] == pytest.approx(other["mean"] - own["mean"])
    assert page.id("gain-words").text in {"worse", "less than its own error"}
    assert page.id("gain").get_attribute("data-way") == "worse"
    page.press(page.labelled("Load what-if-2"))
    page.settle()
    assert page.id("gain-words").text == "the same mixture"
    page.press(page.labelled("Remove what-if"))
    page.settle()
    assert "what-if" not in page.compared()


def test_a_reference_outside_the_space_is_compared_with_but_not_started_from(page: Page) -> None:
    name = "natural"
    assert page.js(f"return model.space.broken(model.mixture('{name}').weights)") != []
    Select(page.id("start")).select_by_visible_text(name)
    assert "nearest allowed mixture" in page.id("status").text
    assert page.js("return model.space.broken(model.current)") == []


@pytest.mark.parametrize(("name", "width", "dark"), [
    ("light", 1280, False), ("dark", 1280, True),
    ("narrow", 390, False), ("narrow-dark", 390, True),
])  # fmt: skip
def test_it_can_be_read_by_everyone(
    page: Page, screenshots: Path, name: str, width: int, dark: bool
) -> None:
    """The whole report, by axe-core; and kept as pictures for people to look at."""
    page.js("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.click("pin")
    page.session.service.resize(page.driver, width, dark=dark)
    time.sleep(0.3)  # the figure is drawn anew for the width
    page.settle()
    picture = screenshots / f"explorer-{name}.png"
    page.session.service.picture(page.driver, picture, page.driver.find_element(By.ID, "explore"))
    assert picture.stat().st_size > 50_000
    page.session.service.picture(page.driver, screenshots / f"report-{name}.png")
    assert page.js("return document.documentElement.scrollWidth") <= width
    page.driver.execute_script(AXE.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    assert found["passes"]
    grave = [
        (v["id"], [(node["html"][:120], node["failureSummary"]) for node in v["nodes"]])
        for v in found["violations"]
        if v["impact"] in {"serious", "critical"}
    ]
    assert grave == []


def test_nothing_moves_for_those_who_asked_for_stillness(page: Page) -> None:
    assert page.js("return matchMedia('(prefers-reduced-motion: reduce)').matches")
    assert page.js("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_nothing_is_fetched(page: Page) -> None:
    requests(page.driver)
    page.open()
    page.click("download")
    assert {url.split(":")[0] for url in requests(page.driver)} <= {"file", "blob", "data"}
    assert page.path.as_uri() in page.driver.current_url


def test_hostile_names_are_only_names(session: Session, imported: Study) -> None:
    imported.fit(settings=QUICK)
    page = Page(session, write(imported)).open()
    assert page.domains() == list(imported.domains)
    names = [e.text for e in page.driver.find_elements(By.CSS_SELECTOR, "#x-sliders .x-name")]
    assert set(names) == set(imported.domains)
    name = page.id("name")
    name.clear()
    name.send_keys("nasty")
    page.click("download")
    kept = MixtureFile.load(page.downloaded("nasty.yaml"), imported.domains)
    assert kept.mixture.distance(imported.best()) < 1e-3
    assert set(kept.provenance["predicted"]) == set(imported.latest_fit().surrogate.metric_names)
    assert complaints(page.driver) == []


def test_many_domains_and_metrics_are_searched(page: Page) -> None:
    """Filters, on what a page is given: rows that do not match go, and all can be shown."""
    field = page.id("find-metric")
    assert not field.is_displayed()  # four metrics need none
    Select(page.id("group")).select_by_visible_text("text")
    shown = [e.text for e in page.driver.find_elements(By.CSS_SELECTOR, "#x-metric-rows th")]
    assert [s.splitlines()[1].removesuffix(" (lower is better)") for s in shown] == [
        "bpb/math",
        "bpb/web",
    ]
    page.js("arguments[0].value = 'zzz'; arguments[0].dispatchEvent(new Event('input'))", field)
    assert page.id("no-metric").is_displayed()


def test_uniform_is_what_the_page_calls_uniform(page: Page, convex: Study) -> None:
    found = page.js("return [...model.mixture('uniform').weights]")
    np.testing.assert_array_equal(found, Mixture.uniform(convex.domains).array())
