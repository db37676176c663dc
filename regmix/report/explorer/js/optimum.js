/*
 * The best allowed mixture by the compact surrogate: spectral projected gradient (Birgin, Martínez &
 * Raydan 2000) from several starts, a little at a time so that the page stays awake.
 */
(function (X) {
  "use strict";

  const [MEMORY, ENOUGH, SMALLEST] = [8, 1e-4, 1e-12];
  const [ROUGH, FINE] = [40, 250];
  const SLICE_MS = 25;
  /** Widths over which a maximum is rounded off, in shares of the metrics' spread; then ever less. */
  const WIDTHS = [0.1, 0.01, 0.001];

  const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
  const pause = () => new Promise((resume) => setTimeout(resume, 0));

  /** What is lowered: objective + caution · std + kl · divergence + what limits cost. */
  X.Goal = class {
    constructor(surrogate, objective, problem) {
      this.surrogate = surrogate;
      this.objective = objective;
      this.problem = problem;
      this.width = WIDTHS[0];
      this.penalty = 0;
    }

    evaluate(x, withSlope) {
      const s = this.surrogate;
      const at = s.inputs(x);
      const [means, stds] = [
        new Float64Array(s.metrics.length),
        new Float64Array(s.metrics.length),
      ];
      for (const row of this.objective.rows) {
        means[row] = s.mean(s.metrics[row], at);
        if (this.problem.caution) stds[row] = s.std(s.metrics[row], at);
      }
      const found = this.objective.searched(
        means,
        stds,
        s.correlation,
        this.problem.caution,
        this.width,
      );
      let value = found.value + this._divergence(x);
      const over = this.excess(at);
      value += this.penalty * over.reduce((sum, o) => sum + o * o, 0);
      if (!withSlope) return { value };
      const rows = this.objective.rows;
      const slope = s.gradient(
        at,
        rows,
        rows.map((r) => stds[r]),
        found.means,
        found.stds,
      );
      this._addSlopes(at, over, slope);
      return { value, slope };
    }

    /** How far beyond each limit, in its own unit; 0 where it holds. */
    excess(at) {
      return this.problem.limits.map((limit) =>
        Math.max(this.surrogate.mean(limit, at) / limit.scale, 0),
      );
    }

    keepsLimits(x) {
      const at = this.surrogate.inputs(x);
      return this.problem.limits.every((l) => this.surrogate.mean(l, at) / l.scale <= 1e-6);
    }

    _divergence(x) {
      if (!this.problem.kl) return 0;
      const q = this.problem.prior.data;
      const nats = x.reduce(
        (sum, w, i) => sum + (w > 0 ? w * Math.log(w / Math.max(q[i], 1e-9)) : 0),
        0,
      );
      return this.problem.kl * nats;
    }

    _addSlopes(at, over, slope) {
      if (this.problem.kl) {
        const q = this.problem.prior.data;
        at.x.forEach((w, i) => {
          const ratio = Math.max(w, 1e-9) / Math.max(q[i], 1e-9);
          slope[i] += this.problem.kl * (Math.log(ratio) + 1);
        });
      }
      this.problem.limits.forEach((limit, i) => {
        if (over[i] <= 0) return;
        const factor = (2 * this.penalty * over[i]) / limit.scale;
        for (const term of limit.terms) {
          const scaled = term.coefficients.data.map((c) => factor * term.factor * c);
          at.basis.addGradient(at, scaled, slope);
        }
      });
    }
  };

  /** One descent; calls `breathe` between steps. */
  async function descend(goal, space, start, held, steps, breathe) {
    let x = start;
    let { value, slope } = goal.evaluate(x, true);
    let best = { x, value };
    const recent = [value];
    let stride = 1 / Math.max(...slope.map(Math.abs), SMALLEST);
    for (let n = 0; n < steps; n++) {
      await breathe();
      const end = space.project(
        x.map((w, i) => w - stride * slope[i]),
        held,
      );
      if (end === null) break;
      const way = end.map((w, i) => w - x[i]);
      const fall = dot(slope, way);
      if (fall > -1e-13 * Math.max(1, Math.abs(value))) break;
      const next = search(goal, x, way, fall, Math.max(...recent));
      if (next === null) break;
      const after = goal.evaluate(next, true);
      const [step, turn] = [next.map((w, i) => w - x[i]), after.slope.map((g, i) => g - slope[i])];
      const curve = dot(step, turn);
      stride = curve > 0 ? Math.min(Math.max(dot(step, step) / curve, 1e-10), 1e10) : 1e3;
      [x, value, slope] = [next, after.value, after.slope];
      recent.push(value);
      if (recent.length > MEMORY) recent.shift();
      if (value < best.value) best = { x, value };
    }
    return best;
  }

  /** The first point on the way that is low enough, halving the step. */
  function search(goal, x, way, fall, ceiling) {
    for (let step = 1; step > SMALLEST; step /= 2) {
      const tried = x.map((w, i) => Math.max(w + step * way[i], 0));
      if (goal.evaluate(tried, false).value <= ceiling + ENOUGH * step * fall) return tried;
    }
    return null;
  }

  /** From rough to fine: limits weigh ever more, a maximum gets ever sharper. */
  async function sharpen(goal, space, start, held, steps, breathe) {
    const sharp = goal.objective.kind === "worst";
    const stages = sharp || goal.problem.limits.length ? WIDTHS : WIDTHS.slice(-1);
    let best = { x: start };
    for (const [stage, width] of stages.entries()) {
      goal.width = width * goal.spread;
      goal.penalty = goal.problem.limits.length ? 10 * 100 ** stage * goal.spread : 0;
      best = await descend(goal, space, best.x, held, steps, breathe);
    }
    return best;
  }

  /**
   * The best mixture that was found, or null where none keeps the limits.
   *
   * options: starts, held, spread (of the objective over the runs), progress(share), cancelled().
   */
  X.findBest = async function (goal, space, options) {
    const { starts, held, spread, progress, cancelled } = options;
    goal.spread = spread;
    let since = performance.now();
    let done = 0;
    const total = starts.length * ROUGH + FINE;
    const breathe = async () => {
      done += 1;
      if (performance.now() - since < SLICE_MS) return;
      progress(Math.min(done / total, 0.99));
      await pause();
      since = performance.now();
      if (cancelled()) throw new X.Cancelled();
    };
    const ends = [];
    for (const start of starts) {
      const inside = space.project(start, held);
      if (inside !== null) ends.push(await sharpen(goal, space, inside, held, ROUGH, breathe));
    }
    ends.sort((a, b) => a.value - b.value);
    const best = await sharpen(goal, space, ends[0].x, held, FINE, breathe);
    const found = [best, ...ends].map((end) => space.project(end.x, held)).filter(Boolean);
    const kept = found.filter((x) => goal.keepsLimits(x));
    if (!kept.length) return null;
    goal.penalty = 0;
    const values = kept.map((x) => goal.evaluate(x, false).value);
    return kept[values.indexOf(Math.min(...values))];
  };

  X.Cancelled = class extends Error {};
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
