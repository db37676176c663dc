/* What the explorer knows and what a person did: everything else draws it. */
(function (X) {
  "use strict";

  const REMEMBERED = 100;
  const Z90 = 1.6448536269514722;

  X.Z90 = Z90;

  X.Model = class {
    constructor(data) {
      this.data = data;
      this.domains = data.compact.domains;
      this.metrics = data.metrics;
      this.surrogate = new X.Surrogate(data.compact);
      this.space = new X.Space(data.space);
      this.runs = data.runs;
      this.mixtures = data.mixtures.map((m) => ({
        name: m.name,
        weights: m.weights.data,
        pinned: false,
      }));
      this.held = new Set();
      this.history = [];
      this.listeners = [];
      this.known = new WeakMap();
      const given = data.objective;
      this.settings = {
        kind: given.kind,
        weights: [...given.weights],
        reference: given.reference || this.referenceNames()[0],
      };
      this._objective = null;
      const natural = this.mixtures.find((m) => m.name === "natural");
      this.compared = (natural || this.mixtures.find((m) => m.name === "uniform")).name;
      this.current = this.allowed(this.mixture("proposal").weights);
    }

    onChange(listener) {
      this.listeners.push(listener);
    }

    changed() {
      for (const listener of this.listeners) listener();
    }

    mixture(name) {
      return this.mixtures.find((m) => m.name === name);
    }

    referenceNames() {
      return this.mixtures.filter((m) => !m.pinned).map((m) => m.name);
    }

    /** A mixture itself where it is allowed, the nearest allowed one where not. */
    allowed(weights) {
      return this.space.contains(weights) ? weights : this.space.project(weights);
    }

    /** Mean and std of every metric and of the objective; remembered by mixture. */
    predict(weights) {
      if (!this.known.has(weights)) this.known.set(weights, this.surrogate.predict(weights));
      return this.known.get(weights);
    }

    objective(weights) {
      const { mean, std } = this.predict(weights);
      return this.goal().join(mean, std, this.surrogate.correlation);
    }

    /** The objective as it is set now. */
    goal() {
      if (this._objective === null) {
        const { kind, weights } = this.settings;
        const signs = this.metrics.map((m) => m.sign);
        this._objective = new X.Objective(kind, weights, signs, this._referenceValues());
      }
      return this._objective;
    }

    /** The fit's own values where the reference is its own, the page's where it was changed. */
    _referenceValues() {
      const { kind, reference } = this.settings;
      if (kind === "weighted") return null;
      const given = this.data.objective;
      const { mean } = this.predict(this.mixture(reference).weights);
      const same = reference === given.reference;
      return mean.map((v, i) =>
        same && given.reference_values[i] !== null ? given.reference_values[i] : v,
      );
    }

    /** Change the objective; an error leaves it as it was. */
    setObjective(changes) {
      const before = this.settings;
      this.settings = { ...before, ...changes };
      this._objective = null;
      try {
        this.goal();
      } catch (error) {
        this.settings = before;
        this._objective = null;
        throw error;
      }
      this.changed();
    }

    /** Whether the objective is still the one that was fitted for. */
    get isOwnObjective() {
      const given = this.data.objective;
      const total = this.settings.weights.reduce((sum, w) => sum + w, 0);
      return (
        this.settings.kind === given.kind &&
        (given.kind === "weighted" || this.settings.reference === given.reference) &&
        this.settings.weights.every((w, i) => Math.abs(w / total - given.weights[i]) < 1e-12)
      );
    }

    /** The shares that domains on hold keep. */
    heldShares() {
      return new Map([...this.held].map((d) => [d, this.current[d]]));
    }

    set(weights) {
      this.history.push(this.current);
      if (this.history.length > REMEMBERED) this.history.shift();
      this.current = weights;
      this.changed();
    }

    /** Move one share as far as the constraints allow; `keep`: one step of a longer movement. */
    move(domain, share, keep = false) {
      const next = this.space.move(this.current, domain, share, this.heldShares());
      if (keep) {
        this.current = next;
        this.changed();
      } else this.set(next);
      return next[domain];
    }

    undo() {
      if (!this.history.length) return;
      this.current = this.history.pop();
      this.changed();
    }

    pin(name) {
      if (this.mixture(name)) throw new Error(`there is a mixture “${name}” already`);
      this.mixtures.push({ name, weights: X.tidy(this.current, this.space), pinned: true });
      this.changed();
    }

    unpin(name) {
      this.mixtures = this.mixtures.filter((m) => m.name !== name || !m.pinned);
      if (this.compared === name) this.compared = this.referenceNames()[0];
      this.changed();
    }

    compareWith(name) {
      this.compared = name;
      this.changed();
    }

    nearest(weights) {
      return X.nearestRun(weights, this.runs);
    }

    /** How much better the present mixture is than the one compared with, metric by metric. */
    gain(metric) {
      const [own, other] = [
        this.predict(this.current),
        this.predict(this.mixture(this.compared).weights),
      ];
      return {
        mean: this.metrics[metric].sign * (other.mean[metric] - own.mean[metric]),
        std: Math.hypot(own.std[metric], other.std[metric]),
      };
    }

    objectiveGain() {
      const own = this.objective(this.current);
      const other = this.objective(this.mixture(this.compared).weights);
      return { mean: other.mean - own.mean, std: Math.hypot(own.std, other.std) };
    }

    /** Where the search begins: here, at every mixture by name, and at the best of the runs. */
    starts() {
      const runs = this.runs.weights;
      const [count, size] = runs.shape;
      const goal = new X.Goal(this.surrogate, this.goal(), { caution: 0, kl: 0, limits: [] });
      const step = Math.max(1, Math.floor(count / 64));
      const tried = [];
      for (let r = 0; r < count; r += step) {
        const x = runs.data.slice(r * size, (r + 1) * size);
        tried.push({ x, value: goal.evaluate(x, false).value });
      }
      tried.sort((a, b) => a.value - b.value);
      const named = ["proposal", "uniform"].map((name) => this.mixture(name).weights);
      return [this.current, ...named, ...tried.slice(0, 2).map((t) => t.x)];
    }

    /** The best mixture under the present objective; null where none keeps the limits. */
    findBest(progress, cancelled) {
      const { caution, kl, prior } = this.data.problem;
      const limits = this.data.compact.limits;
      const spread = this.spread();
      // The pull is set in spreads of the objective, and another objective has another spread.
      const pull = this.isOwnObjective ? kl : (kl * spread) / this.data.problem.spread;
      const goal = new X.Goal(this.surrogate, this.goal(), { caution, kl: pull, prior, limits });
      const held = this.heldShares();
      return X.findBest(goal, this.space, {
        starts: this.starts(),
        held,
        spread,
        progress,
        cancelled,
      });
    }

    /** Standard deviation of the objective over the runs; predicted where it was changed. */
    spread() {
      if (this.isOwnObjective) return this.data.problem.spread;
      const [count, size] = this.runs.weights.shape;
      const values = [];
      for (let r = 0; r < count; r += Math.max(1, Math.floor(count / 64))) {
        const x = this.runs.weights.data.slice(r * size, (r + 1) * size);
        values.push(this.objective(x).mean);
      }
      const middle = values.reduce((sum, v) => sum + v, 0) / values.length;
      const square = values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (values.length - 1);
      return Math.max(Math.sqrt(square), 1e-12);
    }

    /** The present mixture, or a pinned one, as a file's text. */
    yaml(name, weights) {
      const { mean, std } = this.predict(weights);
      const near = this.nearest(weights);
      const predicted = Object.fromEntries(
        this.metrics.map((m, i) => [m.name, { mean: mean[i], std: std[i] }]),
      );
      return X.mixtureYaml(name, this.domains, weights, {
        ...this.data.provenance,
        objective: this.describe(),
        nearest_run: near.name,
        nearest_distance: near.distance,
        extrapolates: near.extrapolates,
        predicted,
      });
    }

    /** The objective in words. */
    describe() {
      if (this.isOwnObjective) return this.data.objective.text;
      const goal = this.goal();
      const terms = goal.rows.map(
        (row, i) =>
          `${(goal.shares[i] * this.metrics[row].sign).toPrecision(3)}·${this.metrics[row].name}`,
      );
      const how = { weighted: "", relative: "mean relative loss", worst: "worst relative loss" };
      const against = goal.kind === "weighted" ? "" : ` against ${this.settings.reference}: `;
      return `${how[goal.kind]}${against}${terms.join(" + ")}`;
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
