/* One row a metric: what is predicted, how much better that is, and what the metric weighs. */
(function (X) {
  "use strict";

  const SHOWN = 14;
  const LIMITS = [0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 50, 100, 1000];
  /** Disagreement of a stand-in (95th percentile, in predicted stds) from which a row says so. */
  const ROUGH = 0.5;

  X.Metrics = class {
    constructor(model, complain) {
      this.model = model;
      this.complain = complain;
      this.all = false;
      this.limit = LIMITS[1];
      this.body = X.byId("metric-rows");
      this.rows = model.metrics.map((metric, index) => this._row(metric, index));
      this._filters();
      this.filter();
    }

    _filters() {
      this.field = X.byId("find-metric");
      this.group = X.byId("group");
      this.more = X.byId("more-metrics");
      const groups = this.model.data.groups;
      X.options(this.group, [["", "all"], ...groups.map((g, i) => [String(i), g.name])]);
      this.field.closest("label").hidden = this.rows.length <= 6;
      this.group.closest("label").hidden = !groups.length;
      this.field.addEventListener("input", () => this.filter());
      this.group.addEventListener("change", () => this.filter());
      this.more.addEventListener("click", () => {
        this.all = !this.all;
        this.filter();
      });
    }

    _row(metric, index) {
      const cell = (name, ...children) => X.el("td", { role: "cell", class: name }, ...children);
      const [value, gain] = [X.el("span"), X.el("span", { class: "x-gain" })];
      const [whisker, dot] = [
        X.el("span", { class: "x-whisker" }),
        X.el("span", { class: "x-dot" }),
      ];
      const plot = X.el(
        "span",
        { class: "x-plot", "aria-hidden": "true" },
        X.el("span", { class: "x-zero" }),
        whisker,
        dot,
      );
      const weight = X.el("input", {
        type: "number",
        min: 0,
        step: 0.5,
        inputmode: "decimal",
        "aria-label": `Weight of ${metric.name}`,
      });
      const share = X.el("span", { class: "x-weight-share" });
      const item = X.el(
        "tr",
        { role: "row" },
        X.el("th", { role: "rowheader", scope: "row" }, this._label(metric)),
        cell("x-value", value),
        cell("x-diff", gain),
        cell("x-bar", plot),
        cell("x-weight", weight, share),
      );
      weight.addEventListener("change", () => this._weigh(index, weight));
      return { index, metric, item, value, gain, whisker, dot, plot, weight, share };
    }

    _arrow(metric) {
      const [arrow, words] = metric.sign > 0 ? ["↓", "lower is better"] : ["↑", "higher is better"];
      return X.el("span", { class: "x-hints", "aria-hidden": "true", title: words }, arrow);
    }

    _label(metric) {
      const name = X.el("span", {}, metric.name, this._hints(metric));
      return X.el("span", { class: "x-label" }, this._arrow(metric), name);
    }

    _hints(metric) {
      const words = metric.sign > 0 ? "lower is better" : "higher is better";
      const hints = X.el(
        "span",
        { class: "x-hints" },
        X.el("span", { class: "x-unseen" }, ` (${words})`),
      );
      if (metric.off !== null && metric.off > ROUGH) {
        hints.append(
          X.el(
            "span",
            {
              class: "x-rough",
              title: `stand-in: within ${X.fixed(metric.off, 1)} std of the fit for 95% of mixtures`,
            },
            " rough",
          ),
        );
      }
      return hints;
    }

    _weigh(index, field) {
      const value = Number(field.value);
      const weights = [...this.model.settings.weights];
      weights[index] = value;
      try {
        if (field.value === "" || !Number.isFinite(value) || value < 0)
          throw new Error("a weight is 0 or more");
        this.model.setObjective({ weights });
      } catch (error) {
        this.complain(`Weight of ${this.model.metrics[index].name}: ${error.message}.`);
        this.render();
      }
    }

    /** Metrics that the filter lets through; what counts in the objective first. */
    chosen() {
      const wanted = this.field.value.trim().toLowerCase();
      const group =
        this.group.value === "" ? null : this.model.data.groups[Number(this.group.value)];
      return this.rows.filter(
        (r) =>
          r.metric.name.toLowerCase().includes(wanted) &&
          (group === null || group.metrics.includes(r.index)),
      );
    }

    filter() {
      const chosen = this.chosen();
      const own = this.model.data.objective.weights;
      const ordered = [...chosen].sort((a, b) => (own[b.index] > 0) - (own[a.index] > 0));
      const count = this.all ? ordered.length : SHOWN;
      this.visible = ordered.slice(0, count);
      this.body.replaceChildren(...this.visible.map((r) => r.item));
      this.more.hidden = ordered.length <= SHOWN;
      this.more.textContent = this.all ? `Show ${SHOWN}` : `Show all ${ordered.length}`;
      X.byId("no-metric").hidden = ordered.length > 0;
      this.render();
    }

    render() {
      const { model } = this;
      const prediction = model.predict(model.current);
      const gains = this.visible.map((r) => model.gain(r.index));
      this._rescale(gains);
      const total = model.settings.weights.reduce((sum, w) => sum + w, 0);
      this.visible.forEach((row, i) => this._renderRow(row, prediction, gains[i], total));
      for (const [id, sign] of [
        ["axis-low", "−"],
        ["axis-high", "+"],
      ]) {
        X.byId(id).textContent = `${sign}${this.limit}`;
      }
    }

    /** The axis grows at once and shrinks only when most of it is empty, so that it holds still. */
    _rescale(gains) {
      const reach = gains.map((g, i) => {
        const { spread } = this.visible[i].metric;
        return spread > 0 ? (Math.abs(g.mean) + X.Z90 * g.std) / spread : 0;
      });
      const wanted = X.niceAbove(Math.max(0, ...reach), LIMITS);
      if (wanted > this.limit || wanted < 0.4 * this.limit) this.limit = wanted;
    }

    _renderRow(row, { mean, std }, gain, total) {
      const { index, metric } = row;
      const decimals = X.decimalsFor(std[index]);
      row.value.textContent = `${X.fixed(mean[index], decimals)} ± ${X.fixed(std[index], decimals)}`;
      row.gain.textContent = X.signed(gain.mean, decimals);
      row.gain.dataset.way = gain.mean > 0 ? "better" : gain.mean < 0 ? "worse" : "same";
      const place = (v) => 50 + 50 * Math.min(Math.max(v / metric.spread / this.limit, -1), 1);
      row.plot.hidden = !(metric.spread > 0);
      if (metric.spread > 0) {
        const [low, high] = [
          place(gain.mean - X.Z90 * gain.std),
          place(gain.mean + X.Z90 * gain.std),
        ];
        row.whisker.style.left = `${low}%`;
        row.whisker.style.width = `${high - low}%`;
        row.dot.style.left = `${place(gain.mean)}%`;
        row.plot.dataset.way = row.gain.dataset.way;
      }
      const weight = this.model.settings.weights[index];
      if (document.activeElement !== row.weight)
        row.weight.value = String(Number(weight.toPrecision(4)));
      row.share.textContent = X.percent(weight / total);
      row.item.classList.toggle("x-idle", weight === 0);
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
