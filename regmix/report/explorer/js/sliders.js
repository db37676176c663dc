/* One row a domain: a slider, its share in per cent, and whether it is on hold. */
(function (X) {
  "use strict";

  const SCALES = [0.02, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1];
  const STEP = 0.001;
  const LOCK =
    '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path fill="none" ' +
    'stroke="currentColor" stroke-width="1.6" d="M4 7h8v6.2H4zM5.6 7V4.8a2.4 2.4 0 0 1 4.8 0V7"/></svg>';

  X.Sliders = class {
    constructor(model, onFocus) {
      this.model = model;
      this.onFocus = onFocus;
      this.moving = false;
      this.list = X.byId("sliders");
      this.scale = X.byId("scale");
      this.rows = this._order().map((domain) => this._row(domain));
      this.list.replaceChildren(...this.rows.map((row) => row.item));
      this._fillScale();
      this._search(X.byId("find-domain"));
    }

    /** The proposal's largest shares first, as in the report's first figure. */
    _order() {
      const shares = this.model.mixture("proposal").weights;
      return [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
    }

    _fillScale() {
      const { model } = this;
      const largest = Math.max(...model.current, ...model.mixture(model.compared).weights);
      X.options(
        this.scale,
        SCALES.map((s) => [String(s), `0–${Math.round(100 * s)}%`]),
      );
      this.scale.value = String(X.niceAbove(1.6 * largest, SCALES));
      this.scale.addEventListener("change", () => this.render());
    }

    _search(field) {
      field.closest(".x-find").hidden = this.rows.length <= 12;
      field.addEventListener("input", () => {
        const wanted = field.value.trim().toLowerCase();
        for (const { item, name } of this.rows) item.hidden = !name.toLowerCase().includes(wanted);
      });
    }

    _row(domain) {
      const name = this.model.domains[domain];
      const slider = X.el("input", {
        type: "range",
        min: 0,
        step: STEP,
        "aria-label": `Share of ${name}`,
      });
      const number = X.el("input", {
        type: "number",
        min: 0,
        max: 100,
        step: 0.1,
        inputmode: "decimal",
        "aria-label": `Share of ${name} in per cent`,
      });
      const hold = X.el("button", {
        type: "button",
        class: "x-hold",
        "aria-pressed": "false",
        title: `Hold ${name}`,
      });
      hold.innerHTML = LOCK;
      hold.append(X.el("span", { class: "x-unseen" }, `Hold ${name}`));
      const mark = X.el("span", { class: "x-mark", "aria-hidden": "true" });
      const range = X.el("span", { class: "x-range", "aria-hidden": "true" });
      const item = X.el(
        "li",
        { class: "x-slider" },
        X.el("span", { class: "x-name", title: name }, name),
        X.el("span", { class: "x-track" }, range, mark, slider),
        X.el("span", { class: "x-share" }, number, X.el("span", { "aria-hidden": "true" }, "%")),
        hold,
      );
      const row = { domain, name, item, slider, number, hold, mark, range, typing: false };
      this._listen(row);
      return row;
    }

    _listen(row) {
      const { slider, number, hold, domain } = row;
      slider.addEventListener("input", () => {
        this.model.move(domain, Number(slider.value), this.moving);
        this.moving = true;
      });
      slider.addEventListener("change", () => {
        this.moving = false;
        this.render();
      });
      number.addEventListener("focus", () => number.select());
      // What is being typed is left alone; what comes of it is shown, reached or not.
      number.addEventListener("input", () => {
        row.typing = true;
      });
      number.addEventListener("change", () => {
        row.typing = false;
        const share = Number(number.value) / 100;
        if (number.value !== "" && Number.isFinite(share)) {
          this.model.move(domain, Math.min(Math.max(share, 0), 1));
        }
        this.render();
      });
      number.addEventListener("blur", () => {
        row.typing = false;
        this.render();
      });
      hold.addEventListener("click", () => {
        const { held } = this.model;
        if (!held.delete(domain)) held.add(domain);
        this.model.changed();
      });
      for (const control of [slider, number]) {
        control.addEventListener("focus", () => this.onFocus(domain));
      }
    }

    render() {
      const { current } = this.model;
      const largest = Math.max(...current);
      if (!this.moving && largest > Number(this.scale.value)) {
        this.scale.value = String(X.niceAbove(largest, SCALES));
      }
      const compared = this.model.mixture(this.model.compared);
      for (const row of this.rows) this._renderRow(row, compared);
    }

    _renderRow(row, compared) {
      const { domain, slider, number, hold, mark, range, item } = row;
      const [top, share] = [Number(this.scale.value), this.model.current[domain]];
      const { low, high } = this.model.data.space;
      slider.max = top;
      slider.value = share;
      slider.setAttribute("aria-valuetext", X.percent(share));
      item.style.setProperty("--share", Math.min(share / top, 1));
      item.style.setProperty("--low", Math.min(low.data[domain] / top, 1));
      item.style.setProperty("--high", Math.min(high.data[domain] / top, 1));
      range.hidden = low.data[domain] <= 0 && high.data[domain] >= top;
      item.style.setProperty("--mark", Math.min(compared.weights[domain] / top, 1));
      mark.hidden = compared.weights[domain] > top;
      mark.title = `${compared.name}: ${X.percent(compared.weights[domain])}`;
      if (!row.typing) number.value = (100 * share).toFixed(share > 0 && share < 0.001 ? 2 : 1);
      const held = this.model.held.has(domain);
      hold.setAttribute("aria-pressed", String(held));
      item.classList.toggle("x-held", held);
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
