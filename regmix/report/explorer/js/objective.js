/* What is wanted of the metrics: the three kinds of regmix/objective.py, and their slopes. */
(function (X) {
  "use strict";

  /**
   * An objective over some metrics; lower is better.
   *
   * weights: raw, by metric, 0 leaves one out; signs: +1 lower is better; reference: every metric's
   * value at the mixture that relative kinds are measured against, or null.
   */
  X.Objective = class {
    constructor(kind, weights, signs, reference) {
      this.kind = kind;
      this.rows = [...weights.keys()].filter((i) => weights[i] > 0);
      if (!this.rows.length) throw new Error("no metric has a weight");
      const total = this.rows.reduce((sum, i) => sum + weights[i], 0);
      this.shares = this.rows.map((i) => weights[i] / total);
      this.reference = this.rows.map((i) => (kind === "weighted" ? 0 : reference[i]));
      if (kind !== "weighted" && this.reference.some((v) => v === 0)) {
        throw new Error("a metric is 0 at the reference, so nothing can be relative to it");
      }
      this.coefficients = this.rows.map((row, i) => {
        const own = this.shares[i] * signs[row] * (kind === "worst" ? this.rows.length : 1);
        return kind === "weighted" ? own : own / Math.abs(this.reference[i]);
      });
    }

    terms(means) {
      return this.rows.map((row, i) => (means[row] - this.reference[i]) * this.coefficients[i]);
    }

    /** Mean and standard deviation; correlation is that of the errors of all metrics. */
    join(means, stds, correlation) {
      const terms = this.terms(means);
      const spread = this.rows.map((row, i) => stds[row] * this.coefficients[i]);
      if (this.kind === "worst") {
        const most = terms.indexOf(Math.max(...terms));
        return { mean: terms[most], std: Math.abs(spread[most]) };
      }
      const joint = this._joint(spread, correlation);
      const variance = spread.reduce((sum, s, i) => sum + s * joint[i], 0);
      return {
        mean: terms.reduce((sum, t) => sum + t, 0),
        std: Math.sqrt(Math.max(variance, 0)),
      };
    }

    /**
     * The searched function `mean + caution · std`, and how it changes with each metric.
     *
     * A maximum is rounded off over `width`, so that it has a slope everywhere.
     */
    searched(means, stds, correlation, caution, width) {
      const terms = this.terms(means);
      const spread = this.rows.map((row, i) => stds[row] * this.coefficients[i]);
      if (this.kind === "worst") return this._rounded(terms, spread, caution, width);
      const joint = this._joint(spread, correlation);
      const std = Math.sqrt(
        Math.max(
          spread.reduce((sum, s, i) => sum + s * joint[i], 0),
          0,
        ),
      );
      return {
        value: terms.reduce((sum, t) => sum + t, 0) + caution * std,
        means: this.coefficients,
        stds: this.coefficients.map((c, i) => (std > 0 ? (caution * c * joint[i]) / std : 0)),
      };
    }

    _rounded(terms, spread, caution, width) {
      const most = Math.max(...terms);
      const grown = terms.map((t) => Math.exp((t - most) / width));
      const total = grown.reduce((sum, v) => sum + v, 0);
      const shares = grown.map((v) => v / total);
      const std = shares.reduce((sum, p, i) => sum + p * Math.abs(spread[i]), 0);
      return {
        value: most + width * Math.log(total) + caution * std,
        means: shares.map((p, i) => p * this.coefficients[i]),
        stds: shares.map((p, i) => caution * p * Math.abs(this.coefficients[i])),
      };
    }

    _joint(spread, correlation) {
      const size = correlation.shape[0];
      return this.rows.map((row) =>
        this.rows.reduce(
          (sum, other, j) => sum + correlation.data[row * size + other] * spread[j],
          0,
        ),
      );
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
