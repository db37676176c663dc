/* Puts the parts together. */
(function (X) {
  "use strict";

  /** Tell what happened; read out by screen readers. */
  X.say = (text) => {
    X.byId("status").textContent = text;
  };

  const KINDS = [
    ["weighted", "weighted mean"],
    ["relative", "mean relative loss"],
    ["worst", "worst relative loss"],
  ];

  /** The line at the top: objective, gain, distance. */
  function renderSummary(model) {
    const own = model.objective(model.current);
    const decimals = X.decimalsFor(own.std);
    X.byId("objective").textContent = X.fixed(own.mean, decimals);
    X.byId("objective-std").textContent = `± ${X.fixed(own.std, decimals)}`;
    X.byId("objective-text").textContent = model.isOwnObjective
      ? "the fit’s objective"
      : "your objective";
    renderGain(model);
    renderDistance(model);
    const active = model.space.active(model.current);
    X.byId("active").textContent = active.length
      ? `at the edge of ${active.slice(0, 3).join(", ")}${active.length > 3 ? " …" : ""}`
      : "no constraint is in the way";
  }

  function renderGain(model) {
    const gain = model.objectiveGain();
    const decimals = X.decimalsFor(gain.std);
    const box = X.byId("gain");
    box.textContent = X.signed(gain.mean, decimals);
    box.dataset.way = gain.mean > 0 ? "better" : gain.mean < 0 ? "worse" : "same";
    X.byId("gain-std").textContent = `± ${X.fixed(gain.std, decimals)}`;
    const same = X.distance(model.current, model.mixture(model.compared).weights) < 1e-9;
    const words = same
      ? "the same mixture"
      : Math.abs(gain.mean) < gain.std
        ? "less than its own error"
        : gain.mean > 0
          ? "better"
          : "worse";
    X.byId("gain-words").textContent = words;
  }

  function renderDistance(model) {
    const near = model.nearest(model.current);
    X.byId("distance").textContent = X.fixed(near.distance, 3);
    X.byId("near").textContent = near.extrapolates
      ? `further from every run than ${X.fixed(model.runs.limit, 3)}: the fit guesses here`
      : `nearest run ${near.name}; runs lie ${X.fixed(model.runs.typical, 3)} apart`;
    X.byId("badge").hidden = !near.extrapolates;
    X.byId("app").classList.toggle("x-extrapolates", near.extrapolates);
    const limits = model.data.compact.limits;
    if (!limits.length) return;
    const goal = new X.Goal(model.surrogate, model.goal(), { caution: 0, kl: 0, limits });
    const at = model.surrogate.inputs(model.current);
    const broken = goal
      .excess(at)
      .map((over, i) => (over > 1e-6 ? limits[i].name : null))
      .filter(Boolean);
    X.byId("limits").textContent = broken.length
      ? `breaks ${broken.join(", ")}`
      : "keeps the study’s limits";
  }

  function objectivePanel(model) {
    const [kind, reference] = [X.byId("kind"), X.byId("reference")];
    X.options(kind, KINDS);
    X.options(
      reference,
      model.referenceNames().map((n) => [n, n]),
    );
    const change = (changes) => {
      try {
        model.setObjective(changes);
      } catch (error) {
        X.say(`The objective stays as it was: ${error.message}.`);
      }
      show();
    };
    const show = () => {
      kind.value = model.settings.kind;
      reference.value = model.settings.reference;
      reference.closest("label").hidden = model.settings.kind === "weighted";
      X.byId("reset-objective").disabled = model.isOwnObjective;
    };
    kind.addEventListener("change", () => change({ kind: kind.value }));
    reference.addEventListener("change", () => change({ reference: reference.value }));
    X.byId("reset-objective").addEventListener("click", () => {
      const given = model.data.objective;
      change({
        kind: given.kind,
        weights: [...given.weights],
        reference: given.reference || model.settings.reference,
      });
    });
    X.byId("objective-panel").addEventListener("toggle", (event) => {
      X.byId("app").classList.toggle("x-weighing", event.target.open);
    });
    model.onChange(show);
    show();
    return change;
  }

  /** Weights of all metrics that the filter lets through, at once. */
  function groupWeights(model, metrics, change) {
    const apply = (own, rest) => {
      const chosen = new Set(metrics.chosen().map((r) => r.index));
      change({ weights: model.settings.weights.map((w, i) => (chosen.has(i) ? own : rest(w))) });
    };
    X.byId("only-these").addEventListener("click", () => apply(1, () => 0));
    X.byId("none-of-these").addEventListener("click", () => apply(0, (w) => w));
  }

  function searching(model) {
    const [run, stop] = [X.byId("optimise"), X.byId("stop")];
    let cancelled = false;
    stop.addEventListener("click", () => {
      cancelled = true;
    });
    run.addEventListener("click", async () => {
      cancelled = false;
      [run.disabled, stop.hidden] = [true, false];
      X.say("Searching …");
      const before = model.objective(model.current).mean;
      try {
        const found = await model.findBest(
          (share) => X.say(`Searching … ${Math.round(100 * share)}%`),
          () => cancelled,
        );
        report(model, found, before);
      } catch (error) {
        if (!(error instanceof X.Cancelled)) throw error;
        X.say("The search was stopped; the mixture is as it was.");
      } finally {
        [run.disabled, stop.hidden] = [false, true];
      }
    });
  }

  function report(model, found, before) {
    if (found === null) {
      X.say("No mixture was found that keeps the limits and what is on hold.");
      return;
    }
    model.set(X.tidy(found, model.space));
    const { mean, std } = model.objective(model.current);
    const decimals = X.decimalsFor(std);
    const { caution } = model.data.problem;
    const careful = caution ? `, with ${caution} of its standard deviations added` : "";
    X.say(
      `Found ${X.fixed(mean, decimals)} (it was ${X.fixed(before, decimals)}): the lowest objective${careful} that the search met under the same constraints.`,
    );
  }

  function keeping(model) {
    const name = X.byId("name");
    const named = (work) => () => {
      const problem = X.nameProblem(name.value);
      name.setAttribute("aria-invalid", String(problem !== null));
      if (problem !== null) {
        X.say(`The name “${name.value}” does not do: ${problem}.`);
        name.focus();
        return;
      }
      work(name.value.trim());
    };
    X.byId("pin").addEventListener(
      "click",
      named((given) => {
        let free = given;
        for (let n = 2; model.mixture(free); n++) free = `${given}-${n}`;
        model.pin(free);
        X.say(`Pinned as ${free}.`);
      }),
    );
    X.byId("download").addEventListener(
      "click",
      named((given) => {
        X.download(`${given}.yaml`, model.yaml(given, X.tidy(model.current, model.space)));
        X.say(`${given}.yaml holds the mixture; put it into the study’s mixes/ folder.`);
      }),
    );
    X.byId("undo").addEventListener("click", () => model.undo());
    model.onChange(() => {
      X.byId("undo").disabled = model.history.length === 0;
    });
  }

  X.start = function () {
    const model = new X.Model(X.readPayload(X.byId("data")));
    X.model = model;
    X.byId("app").hidden = false;
    const profile = new X.Profile(model);
    const sliders = new X.Sliders(model, (domain) => profile.show(domain));
    const metrics = new X.Metrics(model, X.say);
    const compare = new X.Compare(model);
    groupWeights(model, metrics, objectivePanel(model));
    searching(model);
    keeping(model);
    const render = () => {
      renderSummary(model);
      sliders.render();
      metrics.render();
    };
    const rest = X.afterPause(() => compare.render(), 60);
    render();
    compare.render();
    const frame = X.eachFrame(render);
    model.onChange(() => {
      frame();
      rest();
      profile.later();
    });
    profile.later();
    performance.mark("explorer");
  };

  X.start();
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
