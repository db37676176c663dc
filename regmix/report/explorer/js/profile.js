/* What moving one domain does, all along its range: drawn with Observable Plot. */
(function (X) {
  "use strict";

  const POINTS = 41;
  const HEIGHT = 280;
  /** What extrapolation is filled with. */
  const HATCH =
    '<svg width="0" height="0" aria-hidden="true" class="x-defs"><defs><pattern id="x-hatch" ' +
    'width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">' +
    '<rect width="7" height="7" class="x-hatch-ground"/>' +
    '<rect width="2" height="7" class="x-hatch-line"/></pattern></defs></svg>';

  X.Profile = class {
    constructor(model) {
      this.model = model;
      this.box = X.byId("profile");
      this.box.insertAdjacentHTML("beforebegin", HATCH);
      this.domain = X.byId("profile-domain");
      this.what = X.byId("profile-metric");
      const shares = model.mixture("proposal").weights;
      X.options(
        this.domain,
        model.domains.map((name, i) => [String(i), name]),
      );
      this.domain.value = String(shares.indexOf(Math.max(...shares)));
      X.options(this.what, [
        ["", "objective"],
        ...model.metrics.map((m, i) => [String(i), m.name]),
      ]);
      this.later = X.afterPause(() => this.draw(), 120);
      for (const select of [this.domain, this.what])
        select.addEventListener("change", () => this.draw());
      new ResizeObserver(() => this.later()).observe(this.box);
    }

    show(domain) {
      if (this.domain.value === String(domain)) return;
      this.domain.value = String(domain);
      this.later();
    }

    /** Mean and std of what is drawn. */
    _value(weights) {
      if (this.what.value === "") return this.model.objective(weights);
      const { mean, std } = this.model.predict(weights);
      const i = Number(this.what.value);
      return { mean: mean[i], std: std[i] };
    }

    /** Mixtures along the domain's range, the others following as they do under the slider. */
    points() {
      const { model } = this;
      const domain = Number(this.domain.value);
      const [low, high] = [model.data.space.low.data[domain], model.data.space.high.data[domain]];
      const shares = [...Array(POINTS).keys()].map(
        (i) => low + (high - low) * (i / (POINTS - 1)) ** 1.5,
      );
      const held = model.heldShares();
      const found = [...shares, model.current[domain]].map((share) => {
        const weights = model.space.move(model.current, domain, share, held);
        const { mean, std } = this._value(weights);
        const { extrapolates, distance } = model.nearest(weights);
        return {
          share: weights[domain],
          mean,
          std,
          low: mean - X.Z90 * std,
          high: mean + X.Z90 * std,
          extrapolates,
          distance,
        };
      });
      return found
        .sort((a, b) => a.share - b.share)
        .filter((p, i, all) => i === 0 || p.share > all[i - 1].share + 1e-9);
    }

    /** Stretches of the axis whose mixtures extrapolate. */
    stretches(points) {
      const found = [];
      points.forEach((p, i) => {
        if (!p.extrapolates) return;
        const from = i === 0 ? p.share : (p.share + points[i - 1].share) / 2;
        const to = i === points.length - 1 ? p.share : (p.share + points[i + 1].share) / 2;
        const last = found[found.length - 1];
        if (last && Math.abs(last.to - from) < 1e-12) last.to = to;
        else found.push({ from, to });
      });
      return found;
    }

    draw() {
      const width = this.box.clientWidth;
      if (width === 0) return;
      const points = this.points();
      const stretches = this.stretches(points);
      const domain = Number(this.domain.value);
      const name = this.model.domains[domain];
      const label =
        this.what.value === "" ? "objective" : this.model.metrics[Number(this.what.value)].name;
      const drawn = this._plot({ width, points, stretches, domain, label });
      drawn.setAttribute("aria-hidden", "true"); // the box says in words what it shows
      this.box.replaceChildren(drawn);
      this.box.setAttribute("aria-label", this._inWords(points, stretches, name, label));
    }

    _plot({ width, points, stretches, domain, label }) {
      const { model } = this;
      const compared = model.mixture(model.compared);
      const here = { share: model.current[domain], ...this._value(model.current) };
      const there = { share: compared.weights[domain], ...this._value(compared.weights) };
      const narrow = width < 520;
      const reach = points[points.length - 1].share - points[0].share;
      return Plot.plot({
        width,
        height: HEIGHT,
        marginLeft: 58,
        marginRight: 26,
        marginTop: 30,
        marginBottom: 44,
        style: { fontFamily: "inherit", fontSize: "12px", background: "transparent" },
        x: {
          label: `share of ${model.domains[domain]} →`,
          percent: false,
          tickFormat: (v) => X.percent(v).replace(".0%", "%"),
          ticks: narrow ? 4 : 8,
        },
        y: { label: `↑ ${label}`, grid: true, nice: true, ticks: 5 },
        marks: [
          Plot.rect(stretches, { x1: "from", x2: "to", fill: "url(#x-hatch)" }),
          Plot.text(
            stretches.filter((s) => s.to - s.from > 0.12 * reach),
            {
              x: (s) => (s.from + s.to) / 2,
              frameAnchor: "top",
              dy: -14,
              text: () => "extrapolation",
              fill: "var(--warn)",
              fontWeight: 600,
            },
          ),
          Plot.areaY(points, {
            x: "share",
            y1: "low",
            y2: "high",
            fill: "var(--accent)",
            fillOpacity: 0.16,
          }),
          Plot.lineY(points, { x: "share", y: "mean", stroke: "var(--accent)", strokeWidth: 2 }),
          Plot.dot([there], {
            x: "share",
            y: "mean",
            symbol: "diamond",
            r: 5,
            stroke: "var(--ink)",
            fill: "var(--card)",
            strokeWidth: 1.5,
          }),
          Plot.ruleX([here], { x: "share", stroke: "var(--ink)", strokeDasharray: "2,3" }),
          Plot.dot([here], {
            x: "share",
            y: "mean",
            r: 5,
            fill: "var(--accent)",
            stroke: "var(--card)",
            strokeWidth: 1.5,
          }),
        ],
      });
    }

    _inWords(points, stretches, name, label) {
      const least = points.reduce((a, b) => (b.mean < a.mean ? b : a));
      const most = points.reduce((a, b) => (b.mean > a.mean ? b : a));
      const far = stretches.map((s) => `${X.percent(s.from)} to ${X.percent(s.to)}`).join(", ");
      return (
        `${label} against the share of ${name}: least ${least.mean.toPrecision(4)} at ${X.percent(least.share)}, ` +
        `most ${most.mean.toPrecision(4)} at ${X.percent(most.share)}` +
        (far ? `; extrapolation at ${far}` : "")
      );
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
