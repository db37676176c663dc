/* Elements and numbers. */
(function (X) {
  "use strict";

  /** An element: `el("td", {class: "x"}, "text", child)`; attributes that are null are left out. */
  X.el = function (tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    X.set(node, attributes);
    node.append(...children);
    return node;
  };

  X.set = function (node, attributes) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === false) node.removeAttribute(key);
      else node.setAttribute(key, value === true ? "" : value);
    }
  };

  X.byId = (id) => document.getElementById(`x-${id}`);

  /** Fill a select with `[value, label]` pairs, keeping what was chosen if it is still there. */
  X.options = function (select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, label]) => X.el("option", { value }, label)));
    if (pairs.some(([value]) => value === before)) select.value = before;
  };

  /** So many decimals; what rounds to 0 has no sign. */
  X.fixed = function (value, decimals) {
    const text = value.toFixed(decimals);
    return /^-[0.]*$/.test(text) ? text.slice(1) : text.replace("-", "−");
  };

  X.signed = function (value, decimals) {
    const text = X.fixed(value, decimals);
    return /[1-9]/.test(text) && !text.startsWith("−") ? `+${text}` : text;
  };

  /** Decimals with which two digits of an error are shown. */
  X.decimalsFor = (std) =>
    std > 0 ? Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(std)))) : 4;

  /** Full decimals as many as help: `12.3%`, `0.04%`. */
  X.percent = (share) => `${X.fixed(100 * share, share > 0 && share < 0.001 ? 2 : 1)}%`;

  /** Calls at most once a frame. */
  X.eachFrame = function (work) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        work();
      });
    };
  };

  /** Calls when nothing has asked for it for a while. */
  X.afterPause = function (work, milliseconds) {
    let timer = 0;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(work, milliseconds);
    };
  };

  /** The least of some round numbers that holds a value. */
  X.niceAbove = (value, steps) => steps.find((s) => s >= value) ?? steps[steps.length - 1];
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
