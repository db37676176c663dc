/* What the report wrote into the page: plain JSON, with arrays of 64-bit floats in base64. */
(function (X) {
  "use strict";

  /** Base64 of little-endian 64-bit floats to a Float64Array. */
  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Float64Array(bytes.buffer);
  }

  /** Every `{"array": i}` becomes `{shape, data}`; equal arrays are one object. */
  function resolve(value, arrays) {
    if (Array.isArray(value)) return value.map((v) => resolve(v, arrays));
    if (value === null || typeof value !== "object") return value;
    if (typeof value.array === "number") return arrays[value.array];
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, arrays)]));
  }

  /** The payload of a script element of type application/json. */
  X.readPayload = function (element) {
    const raw = JSON.parse(element.textContent);
    const arrays = raw.arrays.map((a) => ({ shape: a.shape, data: floats(a.data) }));
    return resolve(raw.value, arrays);
  };
})((globalThis.RegmixExplorer = globalThis.RegmixExplorer || {}));
