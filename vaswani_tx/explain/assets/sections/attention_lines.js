// The view of attention as lines between two columns of tokens, of one head or of all heads of the layer at once.

import { clip, fixed, h, s, tokenText } from "../core.js";
import { buttons, colour, drawn, explainable, figure, slider, standalone } from "../diagram.js";
import { strongestHint, tokensOf } from "./attention.js";

/** The colour of a head among all heads of its layer; to be told apart on light and on dark paper. */
export function headColour(head, heads) {
  return `hsl(${Math.round((head * 360) / heads + 15)} 62% 52%)`;
}

/** Two columns of tokens with a line for each weight from a limit on; hovering a token leaves its lines alone. */
export function attentionLines(page, item, weights, state, change, available) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const count = Math.max(rows.length, columns.length);
  const width = Math.max(300, Math.min(640, (available || 640) - 30));
  const [step, edge, most] = [count > 30 ? 18 : 24, width < 480 ? 105 : 150, width < 480 ? 11 : 16];
  const height = count * step + 10;
  const shown = state.heads === "all" ? Array.from({ length: item.heads }, (_, head) => head) : [state.head - 1];
  let from = attentionLinesFrom(state.from, columns.length);
  let at = null; // {side, index} of the token under the pointer or the focus
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "lines", role: "group", width, height,
    "aria-label": "Lines between the tokens that look, left, and the tokens they look at, right" });
  const bundle = s("g", {});
  const none = h("p", { class: "note", role: "status" });
  const y = (i) => (i + 0.5) * step + 5;
  const drawLines = () => {
    const only = at ?? (state.row === null ? null : { side: "rows", index: state.row - 1 });
    bundle.replaceChildren();
    for (const head of shown) {
      const aside = shown.length > 1 ? (head - (item.heads - 1) / 2) * Math.min(2, 12 / item.heads) : 0; // the same line of several heads shows as a bundle
      const stroke = shown.length > 1 ? headColour(head, item.heads) : colour("--second");
      for (let i = 0; i < rows.length; i++) {
        if (only?.side === "rows" && only.index !== i) continue;
        const row = weights.row(head, i);
        for (let j = 0; j < columns.length; j++) {
          if (row[j] < from || (only?.side === "columns" && only.index !== j)) continue;
          bundle.append(s("line", { x1: edge, x2: width - edge, y1: y(i) + aside, y2: y(j) + aside, stroke, "stroke-width": 1 + 3 * row[j], opacity: Math.sqrt(row[j]) }));
        }
      }
    }
    none.textContent = bundle.childNodes.length ? "" : `No weight reaches ${fixed(from)}: move the slider to the left.`;
  };
  const label = (token, index, side) => {
    const isRow = side === "rows";
    const point = (found) => {
      at = found;
      drawLines();
    };
    const choose = () => change({ row: state.row === index + 1 ? null : index + 1, column: null });
    const text = s("text", {
      x: isRow ? edge - 6 : width - edge + 6, y: y(index) + 4, "text-anchor": isRow ? "end" : "start", "font-size": 13, "unicode-bidi": "plaintext",
      class: isRow && state.row === index + 1 ? "chosen" : "", tabindex: 0, role: isRow ? "button" : "img", "data-key": `${side} ${index}`, [isRow ? "data-row" : "data-column"]: index,
      onpointerenter: () => point({ side, index }), onpointerleave: () => point(null), onfocus: () => point({ side, index }), onblur: () => point(null),
      onclick: isRow && choose, onkeydown: isRow && ((event) => event.key === "Enter" && choose()),
    }, clip(tokenText(token), most));
    return explainable(text, () => shown.flatMap((head) => {
      const title = shown.length > 1 ? [h("span", { css: { color: headColour(head, item.heads) } }, "\u25a0 "), `head ${head + 1}`]
        : [tokenText(token), isRow ? " looks at" : " is looked at by"];
      const values = isRow ? weights.row(head, index) : rows.map((_, i) => weights.at(head, i, index));
      return strongestHint(title, isRow ? columns : rows, values).slice(0, shown.length > 1 ? 2 : 5);
    }));
  };
  drawing.append(bundle, ...rows.map((token, i) => label(token, i, "rows")), ...columns.map((token, j) => label(token, j, "columns")));
  drawn(drawLines, drawing);
  const controls = h("div", { class: "controls" },
    buttons("Heads in the lines view", [["one", "this head"], ["all", "all heads"]], state.heads, (heads) => change({ heads })),
    slider("lines from weight", { min: 0.01, max: 0.5, step: 0.01, value: from, show: (value) => fixed(value) }, (value) => {
      from = value;
      state.from = fixed(value);
      drawLines();
    }));
  const key = shown.length > 1 ? h("p", { class: "note head-key" }, shown.map((head) =>
    h("span", {}, h("span", { css: { color: headColour(head, item.heads) }, "aria-hidden": "true" }, "\u25a0"), ` head ${head + 1} `))) : null;
  const name = shown.length > 1 ? "all-heads" : `head${state.head}`;
  return h("div", {}, controls, key, figure(`${item.kind}-lines-layer${item.layer}-${name}`,
    "Left: the token that looks. Right: what it looks at. Fainter is less. Point at a token on either side to see its lines only; choose one on the left to keep them.",
    h("div", {}, drawing, none), () => standalone(drawing)));
}

function attentionLinesFrom(value, columns) {
  const number = value === null ? NaN : Number(value);
  return number >= 0.01 && number <= 0.5 ? number : columns > 30 ? 0.05 : 0.01;
}
