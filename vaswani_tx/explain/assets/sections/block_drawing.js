// The drawing of one layer: sub-layers, residual connections and norms from below upwards, with the lengths beside them.

import { fixed, s } from "../core.js";
import { explainable } from "../diagram.js";

const BLOCK = { width: 396, left: 52, right: 248, box: 38, small: 28, gap: 20 };

function blockBox(part, y) {
  const height = part.kind === "sublayer" ? BLOCK.box : BLOCK.small;
  const group = s("g", { class: `block-part block-${part.kind}`, role: "img", "aria-label": part.label, "data-part": `${part.stage.sublayer}-${part.kind}` },
    s("rect", { x: BLOCK.left, y, width: BLOCK.right - BLOCK.left, height, rx: 6 }),
    s("text", { x: (BLOCK.left + BLOCK.right) / 2, y: y + height / 2 + 5, "text-anchor": "middle", "font-size": 14 }, part.label));
  return explainable(group, part.say);
}

function blockArrow(x1, y1, x2, y2) {
  return s("g", { class: "block-arrow" }, s("line", { x1, y1, x2, y2, "stroke-width": 1.5 }), blockTip(x2, y2, Math.atan2(y2 - y1, x2 - x1)));
}

function blockTip(x, y, angle) {
  const at = (turn) => `${x - 7 * Math.cos(angle + turn)},${y - 7 * Math.sin(angle + turn)}`;
  return s("polygon", { points: `${x},${y} ${at(0.42)} ${at(-0.42)}` });
}

function blockSide(y, text) {
  return s("text", { x: BLOCK.right + 12, y: y + 4, "font-size": 13, class: "block-length" }, text);
}

/** Draw groups of parts, each group one sub-layer with its residual connection, read from below. */
export function blockDrawing(groups, label) {
  const heightOf = (part) => (part.kind === "sublayer" ? BLOCK.box : BLOCK.small) + BLOCK.gap;
  const total = groups.flat().reduce((sum, part) => sum + heightOf(part), 0) + groups.length * BLOCK.gap + 52;
  const drawing = s("svg", { viewBox: `0 0 ${BLOCK.width} ${total}`, width: BLOCK.width, height: total, class: "block-drawing", role: "group", "aria-label": label, xmlns: "http://www.w3.org/2000/svg" });
  const middle = (BLOCK.left + BLOCK.right) / 2;
  let y = total - 22; // the height that the stream has reached
  drawing.append(s("text", { x: middle, y: total - 6, "text-anchor": "middle", "font-size": 12, class: "block-length" }, "from below: embeddings or the layer before"));
  const climb = (to) => {
    drawing.append(blockArrow(middle, y, middle, to));
    y = to;
  };
  for (const group of groups) {
    const branch = y - BLOCK.gap / 2; // where the residual connection leaves the stream
    drawing.append(blockSide(branch, `|x| ${fixed(group[0].stage.before)}`));
    y = branch;
    drawing.append(s("line", { x1: middle, y1: branch + BLOCK.gap / 2, x2: middle, y2: branch, class: "block-line", "stroke-width": 1.5 }));
    for (const part of group) {
      const height = heightOf(part) - BLOCK.gap;
      climb(y - BLOCK.gap);
      const top = y - height;
      if (part.kind === "add") {
        const across = top + height / 2;
        drawing.append(s("polyline", { points: `${middle},${branch} 16,${branch} 16,${across} ${BLOCK.left - 6},${across}`, class: "block-residual", fill: "none", "stroke-width": 1.5 }),
          s("g", { class: "block-arrow residual" }, blockTip(BLOCK.left, across, 0)));
        drawing.append(blockSide(across, `|result| ${fixed(part.stage.after)}`));
      }
      if (part.kind === "sublayer") drawing.append(blockSide(top - BLOCK.gap / 2, `|Sublayer(x)| ${fixed(part.stage.written)}`));
      if (part.cross) {
        drawing.append(blockArrow(BLOCK.right + 48, top + height / 2, BLOCK.right, top + height / 2),
          s("text", { x: BLOCK.right + 54, y: top + height / 2 - 3, "font-size": 12, class: "block-memory" }, "K, V of the"),
          s("text", { x: BLOCK.right + 54, y: top + height / 2 + 12, "font-size": 12, class: "block-memory" }, "encoder"));
      }
      drawing.append(blockBox(part, top));
      y = top;
    }
  }
  climb(y - BLOCK.gap);
  drawing.append(s("text", { x: middle, y: y - 6, "text-anchor": "middle", "font-size": 12, class: "block-length" }, "to the next layer"));
  return drawing;
}
