/* Mixtures as files and as neighbours of runs. */
(function (X) {
  "use strict";

  /** Half the sum of the absolute differences. */
  X.distance = function (a, b, offset = 0) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += Math.abs(a[i] - b[offset + i]);
    return sum / 2;
  };

  /** The nearest run: its name, its distance, and whether that is so far that it extrapolates. */
  X.nearestRun = function (x, runs) {
    let [least, index] = [Infinity, -1];
    for (let r = 0; r < runs.names.length; r++) {
      const apart = X.distance(x, runs.weights.data, r * x.length);
      if (apart < least) [least, index] = [apart, r];
    }
    return { name: runs.names[index], distance: least, extrapolates: least > runs.limit };
  };

  /** Four decimals, as a person would write it, if that stays allowed (as regmix/solve does). */
  X.tidy = function (x, space) {
    const rounded = Float64Array.from(x, (w) => Math.round(w * 1e4) / 1e4);
    const most = rounded.indexOf(Math.max(...rounded));
    rounded[most] += 1 - rounded.reduce((sum, w) => sum + w, 0);
    rounded[most] = Math.round(rounded[most] * 1e4) / 1e4;
    return space.contains(rounded) ? rounded : x;
  };

  /** Every digit; never in a form that YAML 1.1 takes for text, as it does with 1e-7. */
  const number = (v) => {
    const text = String(v);
    return text.includes("e") ? v.toFixed(20) : text;
  };
  /** JSON's strings are YAML's double-quoted ones, but for characters that YAML must escape. */
  const quoted = (text) =>
    JSON.stringify(text).replace(
      /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
      (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );

  function lines(value, indent) {
    const pad = "  ".repeat(indent);
    return Object.entries(value).flatMap(([key, v]) => {
      if (v !== null && typeof v === "object") {
        return [`${pad}${quoted(key)}:`, ...lines(v, indent + 1)];
      }
      const text =
        typeof v === "number" ? number(v) : typeof v === "string" ? quoted(v) : String(v);
      return [`${pad}${quoted(key)}: ${text}`];
    });
  }

  /** A mixture file as regmix/mixture.py reads it. */
  X.mixtureYaml = function (name, domains, weights, provenance) {
    const shares = domains.map((d, i) => `  ${quoted(d)}: ${number(weights[i])}`);
    return [
      "kind: mixture",
      `name: ${quoted(name)}`,
      "weights:",
      ...shares,
      "provenance:",
      ...lines(provenance, 1),
      "",
    ].join("\n");
  };

  /** Why a name cannot be a file's, or null. */
  X.nameProblem = function (name) {
    if (!name.trim()) return "give it a name";
    if (/[/\\]/.test(name) || name.startsWith(".")) return "a name holds no folder";
    return null;
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
