/* Mixtures by name, the present one first: what each is predicted to do, and its shares. */
(function (X) {
  "use strict";

  const cell = (text, name = null) => X.el("td", { class: name }, text);
  const button = (text, label, work) => {
    const node = X.el("button", { type: "button", class: "x-small", "aria-label": label }, text);
    node.addEventListener("click", work);
    return node;
  };

  /** Hand a text to the browser as a file. */
  X.download = function (fileName, text) {
    const url = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
    const link = X.el("a", { href: url, download: fileName });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };

  X.Compare = class {
    constructor(model) {
      this.model = model;
      this.body = X.byId("mixture-rows");
      this.select = X.byId("compare");
      this.start = X.byId("start");
      this.shares = X.byId("shares");
      this.select.addEventListener("change", () => model.compareWith(this.select.value));
      this.start.addEventListener("change", () => {
        if (this.start.value) this.load(this.start.value);
        this.start.value = "";
      });
      X.byId("shares-box").addEventListener("toggle", () => this._renderShares());
      this.known = "";
    }

    load(name) {
      const { model } = this;
      const { weights } = model.mixture(name);
      const allowed = model.allowed(weights);
      model.set(allowed);
      X.say(
        allowed === weights
          ? `Started from ${name}.`
          : `${name} breaks ${model.space.broken(weights).join(", ")}: started from the nearest allowed mixture.`,
      );
    }

    render() {
      const { model } = this;
      const names = model.mixtures.map((m) => m.name);
      if (this.known !== names.join("\n")) {
        this.known = names.join("\n");
        X.options(
          this.select,
          names.map((n) => [n, n]),
        );
        X.options(this.start, [["", "choose…"], ...names.map((n) => [n, n])]);
      }
      this.select.value = model.compared;
      this._renderRows();
      this._renderShares();
    }

    /** All rows anew; whoever pressed a button in one stays on it. */
    _renderRows() {
      const focus = document.activeElement;
      const label = this.body.contains(focus) ? focus.getAttribute("aria-label") : null;
      const now = { name: "now", weights: this.model.current, now: true };
      this.body.replaceChildren(...[now, ...this.model.mixtures].map((m) => this._row(m)));
      if (label === null) return;
      const same = [...this.body.querySelectorAll("button")].find(
        (b) => b.getAttribute("aria-label") === label,
      );
      (same ?? this.select).focus();
    }

    _row(mixture) {
      const { model } = this;
      const { mean, std } = model.objective(mixture.weights);
      const decimals = X.decimalsFor(std);
      const apart = X.distance(mixture.weights, model.current);
      const head = X.el(
        "th",
        { scope: "row" },
        mixture.now ? X.el("strong", {}, "the sliders, now") : mixture.name,
      );
      const row = X.el(
        "tr",
        { class: mixture.now ? "x-now" : null },
        head,
        cell(`${X.fixed(mean, decimals)} ± ${X.fixed(std, decimals)}`),
        cell(mixture.now ? "–" : X.percent(apart)),
        X.el("td", { class: "x-notes" }, ...this._notes(mixture)),
      );
      const actions = X.el("td", { class: "x-actions" });
      if (!mixture.now)
        actions.append(button("Load", `Load ${mixture.name}`, () => this.load(mixture.name)));
      if (mixture.pinned) {
        actions.append(
          button("Download", `Download ${mixture.name}`, () =>
            X.download(`${mixture.name}.yaml`, model.yaml(mixture.name, mixture.weights)),
          ),
          button("Remove", `Remove ${mixture.name}`, () => model.unpin(mixture.name)),
        );
      }
      row.append(actions);
      return row;
    }

    _notes(mixture) {
      const { model } = this;
      const notes = [];
      if (model.nearest(mixture.weights).extrapolates) {
        notes.push(X.el("span", { class: "x-badge x-extra" }, "extrapolation"));
      }
      const broken = model.space.broken(mixture.weights);
      if (broken.length) {
        notes.push(
          X.el(
            "span",
            { class: "x-badge", title: broken.join(", ") },
            `outside: ${broken[0]}${broken.length > 1 ? " …" : ""}`,
          ),
        );
      }
      return notes;
    }

    /** Domain by domain: the present shares, those compared with, and the pinned ones. */
    _renderShares() {
      if (!X.byId("shares-box").open) return;
      const { model } = this;
      const compared = model.mixture(model.compared);
      const others = model.mixtures.filter((m) => m.pinned && m !== compared);
      const columns = [{ name: "now", weights: model.current }, compared, ...others];
      const head = X.el(
        "tr",
        {},
        ...["domain", ...columns.map((c) => c.name)].map((t) => X.el("th", { scope: "col" }, t)),
      );
      const order = [...model.domains.keys()].sort((a, b) => model.current[b] - model.current[a]);
      const rows = order.map((d) =>
        X.el(
          "tr",
          {},
          X.el("th", { scope: "row" }, model.domains[d]),
          ...columns.map((c) => cell(X.percent(c.weights[d]))),
        ),
      );
      this.shares.replaceChildren(X.el("thead", {}, head), X.el("tbody", {}, ...rows));
    }
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
