/*
 * The compact surrogate: the same formulas as regmix/report/explorer/parts.py, and their gradients.
 *
 * A gradient is taken in the shares w. Where a formula is one of √w its slope at w = 0 is infinite;
 * there it is taken at LEAST instead, which a line search forgives.
 */
(function (X) {
  "use strict";

  const LEAST = 1e-6;
  const ROOT5 = Math.sqrt(5);

  const dot = (a, b, offset = 0) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[offset + i];
    return sum;
  };
  const clip = (v, low, high) => Math.min(Math.max(v, low), high);
  const matern = (r) => (1 + r + (r * r) / 3) * Math.exp(-r);
  /** Derivative of matern(√5 · distance) in the squared distance. */
  const maternSlope = (r) => (-5 / 6) * (1 + r) * Math.exp(-r);

  /** A mixture and what several parts need of it. */
  class Inputs {
    constructor(x, basis) {
      this.x = x;
      this.basis = basis;
      this.roots = Float64Array.from(x, Math.sqrt);
      this.slopes = Float64Array.from(x, (w) => 0.5 / Math.sqrt(Math.max(w, LEAST)));
      this._features = null;
    }

    get features() {
      if (this._features === null) this._features = this.basis.features(this);
      return this._features;
    }
  }

  class Basis {
    constructor(spec) {
      this.knots = spec.knots;
      this.centres = spec.centres;
      this.length = spec.length;
    }

    features(at) {
      const { roots, x } = at;
      const d = x.length;
      const [k, m] = [this.knots.shape[0], this.centres.shape[0]];
      const out = new Float64Array(1 + (2 + k) * d + m);
      out[0] = 1;
      out.set(roots, 1);
      out.set(x, 1 + d);
      for (let i = 0; i < k * d; i++) {
        out[1 + 2 * d + i] = Math.max(roots[i % d] - this.knots.data[i], 0);
      }
      for (let j = 0; j < m; j++) {
        out[1 + (2 + k) * d + j] = matern((ROOT5 * Math.sqrt(this.apart(roots, j))) / this.length);
      }
      return out;
    }

    /** Squared distance of a mixture's roots to a centre. */
    apart(roots, j) {
      const d = roots.length;
      let sum = 0;
      for (let i = 0; i < d; i++) {
        const step = roots[i] - this.centres.data[j * d + i];
        sum += step * step;
      }
      return sum;
    }

    /** Adds the gradient of `coefficients · features` to g. */
    addGradient(at, coefficients, g) {
      const { roots, slopes } = at;
      const d = roots.length;
      const [k, m] = [this.knots.shape[0], this.centres.shape[0]];
      for (let i = 0; i < d; i++) {
        g[i] += coefficients[1 + i] * slopes[i] + coefficients[1 + d + i];
      }
      for (let i = 0; i < k * d; i++) {
        if (roots[i % d] > this.knots.data[i]) {
          g[i % d] += coefficients[1 + 2 * d + i] * slopes[i % d];
        }
      }
      for (let j = 0; j < m; j++) {
        const r = (ROOT5 * Math.sqrt(this.apart(roots, j))) / this.length;
        const steep = (coefficients[1 + (2 + k) * d + j] * 2 * maternSlope(r)) / this.length ** 2;
        for (let i = 0; i < d; i++) {
          g[i] += steep * (roots[i] - this.centres.data[j * d + i]) * slopes[i];
        }
      }
    }
  }

  /** Kernel of a Gaussian process with every run. */
  function kernel(part, at) {
    const d = at.x.length;
    const z = part.inputs.data;
    const out = new Float64Array(part.inputs.shape[0]);
    for (let j = 0; j < out.length; j++) {
      let squared = 0;
      let along = 0;
      for (let i = 0; i < d; i++) {
        const step = (at.roots[i] - z[j * d + i]) / part.length.data[i];
        squared += step * step;
        along += at.roots[i] * z[j * d + i];
      }
      out[j] = part.signal * matern(ROOT5 * Math.sqrt(squared)) + part.linear * along;
    }
    return out;
  }

  function addProcessGradient(part, at, factor, g) {
    const d = at.x.length;
    const z = part.inputs.data;
    const inverse = part.length.data.map((l) => 1 / (l * l));
    for (let j = 0; j < part.inputs.shape[0]; j++) {
      let squared = 0;
      for (let i = 0; i < d; i++) {
        const step = at.roots[i] - z[j * d + i];
        squared += step * step * inverse[i];
      }
      const weight = factor * part.weights.data[j];
      const steep = weight * part.signal * 2 * maternSlope(ROOT5 * Math.sqrt(squared));
      for (let i = 0; i < d; i++) {
        const step = at.roots[i] - z[j * d + i];
        g[i] += (steep * step * inverse[i] + weight * part.linear * z[j * d + i]) * at.slopes[i];
      }
    }
  }

  const grown = (part, at) =>
    part.sign * Math.exp(Math.min(part.a + dot(at.x, part.t.data), part.largest));
  const power = (part, w, i) =>
    part.sign * part.f.data[i] * Math.exp(-part.g.data[i] * Math.log(w + part.a.data[i]));

  /** By kind: value; derivatives in the parameters, where it is a formula; gradient in the shares. */
  const PARTS = {
    ridge: {
      value(part, at) {
        const theta = part.theta.data;
        const roots = part.roots ? dot(at.roots, theta, 1 + at.x.length) : 0;
        return theta[0] + dot(at.x, theta, 1) + roots;
      },
      jacobian: (part, at) => Float64Array.from([1, ...at.x, ...(part.roots ? at.roots : [])]),
      addGradient(part, at, factor, g) {
        const [theta, d] = [part.theta.data, at.x.length];
        for (let i = 0; i < d; i++) {
          const root = part.roots ? theta[1 + d + i] * at.slopes[i] : 0;
          g[i] += factor * (theta[1 + i] + root);
        }
      },
    },
    exponential: {
      value: (part, at) => clip(part.c + grown(part, at), -part.reach, part.reach),
      jacobian(part, at) {
        const value = grown(part, at);
        return Float64Array.from([1, value, ...at.x.map((w) => value * w)]);
      },
      addGradient(part, at, factor, g) {
        const value = grown(part, at);
        if (Math.abs(part.c + value) >= part.reach) return;
        for (let i = 0; i < g.length; i++) g[i] += factor * value * part.t.data[i];
      },
    },
    powers: {
      value: (part, at) =>
        clip(
          part.c + at.x.reduce((sum, w, i) => sum + power(part, w, i), 0),
          -part.reach,
          part.reach,
        ),
      jacobian(part, at) {
        const [d, f, a, g] = [at.x.length, part.f.data, part.a.data, part.g.data];
        const out = new Float64Array(3 * d + 1);
        out[0] = 1;
        for (let i = 0; i < d; i++) {
          const term = part.sign * f[i] * Math.exp(-g[i] * Math.log(at.x[i] + a[i]));
          out[1 + i] = term;
          out[1 + d + i] = (-term * g[i] * a[i]) / (at.x[i] + a[i]);
          out[1 + 2 * d + i] = -term * g[i] * Math.log(at.x[i] + a[i]);
        }
        return out;
      },
      addGradient(part, at, factor, g) {
        const whole = part.c + at.x.reduce((sum, w, i) => sum + power(part, w, i), 0);
        if (Math.abs(whole) >= part.reach) return;
        for (let i = 0; i < g.length; i++) {
          const w = at.x[i];
          g[i] -= (factor * power(part, w, i) * part.g.data[i]) / (w + part.a.data[i]);
        }
      },
    },
    process: {
      value: (part, at) => dot(part.weights.data, kernel(part, at)),
      addGradient: addProcessGradient,
    },
    "stand-in": {
      value: (part, at) => dot(part.coefficients.data, at.features),
      addGradient: (part, at, factor, g) =>
        at.basis.addGradient(
          at,
          part.coefficients.data.map((c) => factor * c),
          g,
        ),
    },
  };

  /** Squared length of `factor⁻¹ k` for a packed lower triangle. */
  function whitened(factor, k) {
    const white = new Float64Array(k.length);
    let row = 0;
    let sum = 0;
    for (let i = 0; i < k.length; i++) {
      let value = k[i];
      for (let j = 0; j < i; j++) value -= factor[row + j] * white[j];
      white[i] = value / factor[row + i];
      sum += white[i] * white[i];
      row += i + 1;
    }
    return sum;
  }

  function formulaStd(std, part, at) {
    const jacobian = PARTS[part.kind].jacobian(part, at);
    const [p, columns] = std.root.shape;
    const along = new Float64Array(columns);
    for (let i = 0; i < p; i++) {
      for (let j = 0; j < columns; j++) along[j] += jacobian[i] * std.root.data[i * columns + j];
    }
    const value = std.scale * Math.sqrt(dot(along, along) + std.noise * std.noise);
    return std.limit === null ? value : Math.min(value, std.limit);
  }

  function processStd(std, part, at) {
    const prior = part.signal + part.linear * dot(at.roots, at.roots);
    const left = Math.max(prior - whitened(std.factor.data, kernel(part, at)), 0);
    return std.scale * Math.sqrt(left + std.noise);
  }

  const STDS = {
    formula: formulaStd,
    process: processStd,
    "stand-in": (std, part, at) =>
      Math.exp(clip(dot(std.coefficients.data, at.features), std.low, std.high)),
  };

  X.Surrogate = class {
    constructor(compact) {
      this.metrics = compact.metrics;
      this.correlation = compact.correlation;
      this.basis = compact.basis === null ? null : new Basis(compact.basis);
    }

    inputs(x) {
      return new Inputs(x, this.basis);
    }

    mean(metric, at) {
      return metric.terms.reduce(
        (sum, term) => sum + term.factor * PARTS[term.kind].value(term, at),
        metric.shift,
      );
    }

    std(metric, at) {
      return STDS[metric.std.kind](metric.std, metric.terms[0], at);
    }

    /** Mean and standard deviation of every metric. */
    predict(x) {
      const at = this.inputs(x);
      return {
        mean: Float64Array.from(this.metrics, (m) => this.mean(m, at)),
        std: Float64Array.from(this.metrics, (m) => this.std(m, at)),
      };
    }

    /**
     * Gradient of Σ meanWeights · mean + Σ stdWeights · std at their present values.
     *
     * Stand-ins are added up first, so that the basis is gone through once.
     */
    gradient(at, rows, stds, meanWeights, stdWeights) {
      const g = new Float64Array(at.x.length);
      const shared = this.basis === null ? null : new Float64Array(at.features.length);
      const share = (coefficients, factor) => {
        for (let i = 0; i < shared.length; i++) shared[i] += factor * coefficients[i];
      };
      const differences = [];
      rows.forEach((row, i) => {
        const metric = this.metrics[row];
        for (const term of metric.terms) {
          const factor = meanWeights[i] * term.factor;
          if (term.kind === "stand-in") share(term.coefficients.data, factor);
          else PARTS[term.kind].addGradient(term, at, factor, g);
        }
        if (!stdWeights || !stdWeights[i]) return;
        if (metric.std.kind !== "stand-in") differences.push([metric, stdWeights[i]]);
        else if (stds[i] > Math.exp(metric.std.low) && stds[i] < Math.exp(metric.std.high)) {
          share(metric.std.coefficients.data, stdWeights[i] * stds[i]);
        }
      });
      if (shared !== null) this.basis.addGradient(at, shared, g);
      if (differences.length) this._addDifferences(at, differences, g);
      return g;
    }

    /** Exact standard deviations are few and small: central differences do for their slopes. */
    _addDifferences(at, weighted, g) {
      const total = (x) => {
        const near = this.inputs(x);
        return weighted.reduce((sum, [metric, weight]) => sum + weight * this.std(metric, near), 0);
      };
      for (let i = 0; i < g.length; i++) {
        const below = Math.min(1e-5, at.x[i]);
        const [up, down] = [Float64Array.from(at.x), Float64Array.from(at.x)];
        up[i] += 1e-5;
        down[i] -= below;
        g[i] += (total(up) - total(down)) / (1e-5 + below);
      }
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
