/*
 * The allowed mixtures: the simplex cut by the study's linear constraints (regmix/space.py).
 *
 * Everything that moves a mixture ends in one small quadratic program, so no mixture here is ever
 * outside: min Σ stiffness (x - target)² under the constraints, by the dual method of Goldfarb and
 * Idnani (1983).
 */
(function (X) {
  "use strict";

  const TOLERANCE = 1e-9;
  const EQUAL = 1e-9;
  const EXACT = 1e-12;
  const [STIFFEST, LEAST_SHARE] = [1e7, 1e-3];

  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };

  /** Solve M r = v for a symmetric positive definite M (rows of a lower triangle), by Cholesky. */
  function solveSymmetric(lower, v) {
    const n = v.length;
    const l = lower.map((row) => Float64Array.from(row));
    const out = Float64Array.from(v);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        let value = l[i][j];
        for (let k = 0; k < j; k++) value -= l[i][k] * l[j][k];
        l[i][j] = i === j ? Math.sqrt(Math.max(value, 1e-300)) : value / l[j][j];
      }
      for (let k = 0; k < i; k++) out[i] -= l[i][k] * out[k];
      out[i] /= l[i][i];
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) out[i] -= l[k][i] * out[k];
      out[i] /= l[i][i];
    }
    return out;
  }

  /** The constraints that hold with equality, and the products of their normals. */
  class Active {
    constructor(softness) {
      this.softness = softness;
      this.rows = [];
      this.force = [];
      this.products = [];
    }

    product(a, b) {
      let sum = 0;
      for (let i = 0; i < a.length; i++) sum += a[i] * b[i] * this.softness[i];
      return sum;
    }

    add(row, normal, bound, force) {
      const onto = this.rows.map((r) => this.product(r.normal, normal));
      this.products.push([...onto, this.product(normal, normal)]);
      this.rows.push({ row, normal, bound });
      this.force.push(force);
    }

    drop(index) {
      this.rows.splice(index, 1);
      this.force.splice(index, 1);
      this.products.splice(index, 1);
      for (const line of this.products.slice(index)) line.splice(index, 1);
    }

    /** How the forces give way to a new constraint, and the direction that is left for it. */
    directions(normal) {
      const onto = this.rows.map((r) => this.product(r.normal, normal));
      const give = solveSymmetric(this.products, onto);
      const way = Float64Array.from(normal);
      this.rows.forEach((r, k) => {
        for (let i = 0; i < way.length; i++) way[i] -= give[k] * r.normal[i];
      });
      for (let i = 0; i < way.length; i++) way[i] *= this.softness[i];
      return { give, way };
    }

    /** The first inequality whose force would turn negative, and at which step. */
    blocking(give) {
      let [step, index] = [Infinity, -1];
      this.rows.forEach((r, k) => {
        if (!r.row.equal && give[k] > 1e-14 && this.force[k] / give[k] < step) {
          [step, index] = [this.force[k] / give[k], k];
        }
      });
      return { step, index };
    }
  }

  /** The constraint that is broken most; equations first. */
  function mostBroken(rows, x, active) {
    const held = new Set(active.rows.map((r) => r.row));
    let [worst, found] = [EXACT, null];
    for (const row of rows) {
      if (held.has(row)) continue;
      const slack = dot(row.normal, x) - row.bound;
      const broken = row.equal ? Math.abs(slack) : -slack;
      if (broken > (row.equal ? EXACT : worst)) {
        const sign = slack > 0 ? -1 : 1;
        found = { row, sign };
        if (row.equal) return found;
        worst = broken;
      }
    }
    return found;
  }

  /** min Σ stiffness (x - target)² under `normal · x >= bound` (or =); null if there is no point. */
  function nearest(target, stiffness, rows) {
    const x = Float64Array.from(target);
    const active = new Active(stiffness.map((s) => 1 / s));
    for (let round = 0; round < 20 * (rows.length + x.length); round++) {
      const broken = mostBroken(rows, x, active);
      if (broken === null) return settle(x, active);
      if (!addConstraint(x, active, broken)) return null;
    }
    return null;
  }

  /** Onto the active constraints to the last digits, which steps of very unlike stiffness lose. */
  function settle(x, active) {
    const plain = new Active(new Float64Array(x.length).fill(1));
    for (const { row, normal, bound } of active.rows) plain.add(row, normal, bound, 0);
    for (let round = 0; round < 2; round++) {
      const left = plain.rows.map((r) => r.bound - dot(r.normal, x));
      const push = solveSymmetric(plain.products, left);
      plain.rows.forEach((r, k) => {
        for (let i = 0; i < x.length; i++) x[i] += push[k] * r.normal[i];
      });
    }
    return x;
  }

  /** Move x until one more constraint holds, giving up others where their force ends. */
  function addConstraint(x, active, { row, sign }) {
    const normal = row.normal.map((v) => sign * v);
    let force = 0;
    for (;;) {
      const { give, way } = active.directions(normal);
      const slope = dot(way, normal);
      const slack = dot(normal, x) - sign * row.bound;
      const dependent = slope <= 1e-12 * active.product(normal, normal);
      const full = dependent ? Infinity : -slack / slope;
      const { step, index } = active.blocking(give);
      const taken = Math.min(full, step);
      if (taken === Infinity) return slack > -1e-10; // an equation that the others already imply
      if (!dependent) for (let i = 0; i < x.length; i++) x[i] += taken * way[i];
      give.forEach((g, k) => (active.force[k] -= taken * g));
      force += taken;
      if (full <= step) {
        active.add(row, normal, sign * row.bound, force);
        return true;
      }
      active.drop(index);
    }
  }

  const unit = (size, at, value = 1) => {
    const row = new Float64Array(size);
    row[at] = value;
    return row;
  };

  X.Space = class {
    constructor(spec) {
      this.size = spec.centre.data.length;
      this.names = spec.names;
      this.centre = spec.centre.data;
      this.lower = spec.lower;
      this.upper = spec.upper;
      const [count] = spec.matrix.shape;
      this.matrix = [...Array(count).keys()].map((r) =>
        spec.matrix.data.slice(r * this.size, (r + 1) * this.size),
      );
      this.rows = this._rows();
    }

    _rows() {
      const rows = [{ normal: new Float64Array(this.size).fill(1), bound: 1, equal: true }];
      this.matrix.forEach((normal, r) => {
        const [low, high] = [this.lower[r], this.upper[r]];
        if (low !== null && high !== null && Math.abs(high - low) < EQUAL) {
          rows.push({ normal, bound: high, equal: true });
          return;
        }
        if (low !== null) rows.push({ normal, bound: low });
        if (high !== null) rows.push({ normal: normal.map((v) => -v), bound: -high });
      });
      for (let i = 0; i < this.size; i++) rows.push({ normal: unit(this.size, i), bound: 0 });
      return rows;
    }

    /** Names of the constraints that a mixture breaks; "sum" and "sign" for the simplex itself. */
    broken(x, tolerance = TOLERANCE) {
      const found = [];
      if (Math.abs(x.reduce((sum, w) => sum + w, 0) - 1) > 1e-9) found.push("sum");
      if (x.some((w) => w < -tolerance)) found.push("sign");
      this.matrix.forEach((normal, r) => {
        const value = dot(normal, x);
        const low = this.lower[r] !== null && value < this.lower[r] - tolerance;
        const high = this.upper[r] !== null && value > this.upper[r] + tolerance;
        if (low || high) found.push(this.names[r]);
      });
      return [...new Set(found)];
    }

    contains(x, tolerance = TOLERANCE) {
      return this.broken(x, tolerance).length === 0;
    }

    /** Names of the constraints that hold a mixture back. */
    active(x, tolerance = 1e-4) {
      const names = this.names.filter((_, r) => {
        const value = dot(this.matrix[r], x);
        const low = this.lower[r] === null ? Infinity : value - this.lower[r];
        const high = this.upper[r] === null ? Infinity : this.upper[r] - value;
        return Math.min(low, high) < tolerance;
      });
      return [...new Set(names)];
    }

    /** The nearest allowed mixture; held: a Map from domain to the share that it keeps. */
    project(target, held = new Map()) {
      return this._solve(target, new Float64Array(this.size).fill(1), held);
    }

    /**
     * One domain moved to a share, or as near to it as the constraints allow.
     *
     * The others keep their ratios; where that is not allowed, they change as little as possible,
     * in shares of themselves.
     */
    move(x, domain, share, held = new Map()) {
      const kept = new Map([...held].filter(([d]) => d !== domain));
      let free = 0;
      for (let i = 0; i < this.size; i++) if (i !== domain && !kept.has(i)) free += x[i];
      const fixed = [...kept.values()].reduce((sum, w) => sum + w, 0);
      const left = 1 - share - fixed;
      const others = this.size - 1 - kept.size;
      const target = Float64Array.from(x, (w, i) => {
        if (i === domain) return share;
        if (kept.has(i)) return kept.get(i);
        return free > 1e-9 ? (w * left) / free : left / Math.max(others, 1);
      });
      const stiffness = target.map((w, i) =>
        i === domain ? STIFFEST : 1 / Math.max(w, LEAST_SHARE),
      );
      return this._solve(target, stiffness, kept) || x;
    }

    _solve(target, stiffness, held) {
      const pins = [...held].map(([d, w]) => ({
        normal: unit(this.size, d),
        bound: w,
        equal: true,
      }));
      const found = nearest(target, stiffness, [...pins, ...this.rows]);
      if (found === null) return null;
      const whole = found.map((w) => Math.max(w, 0));
      return this.contains(whole) ? whole : null;
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
