// Curves: lines over one axis in SVG, each axis linear or logarithmic, the numbers under the pointer or the arrow keys.

import { h, s } from "./core.js";
import { colour, drawn, hideHint, showHint, standalone } from "./diagram.js";

const CURVE_COLOURS = ["--second", "--accent", "--good", "--muted"];
const SUPERSCRIPTS = { "-": "\u207b", 0: "\u2070", 1: "\u00b9", 2: "\u00b2", 3: "\u00b3", 4: "\u2074", 5: "\u2075", 6: "\u2076", 7: "\u2077", 8: "\u2078", 9: "\u2079" };

/** A number with about `digits` significant ones: 1,234, 0.0123, 2.2 x 10^-8. */
export function shortNumber(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e7) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const raised = Array.from(String(Number(power)), (char) => SUPERSCRIPTS[char]).join("");
    const front = String(Number(mantissa)).replace("-", "\u2212");
    return (front === "1" ? "" : front + "\u00b7") + "10" + raised;
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en-US").replace("-", "\u2212");
  return String(Number(value.toPrecision(digits))).replace("-", "\u2212");
}

function curveScale({ log }, low, high, start, end) {
  const place = log ? Math.log10 : (value) => value;
  const [from, to] = [place(low), place(high)];
  const range = to - from || 1;
  return (value) => start + ((place(value) - from) / range) * (end - start);
}

function curveTicks({ log, ticks }, low, high) {
  if (ticks) return ticks.filter((value) => value >= low && value <= high);
  if (log) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    if (last - first >= 2) {
      const stride = Math.ceil((last - first) / 6);
      return Array.from({ length: Math.floor((last - first) / stride) + 1 }, (_, i) => 10 ** (first + i * stride));
    }
    const fine = [];
    for (let power = first - 1; power <= last; power++) fine.push(...[1, 2, 5].map((digit) => digit * 10 ** power));
    return fine.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((factor) => size * factor >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function curveLimits(values, { log, from, to }) {
  let low = from ?? Infinity;
  let high = to ?? -Infinity;
  for (const value of values) {
    if (from === undefined && value < low) low = value;
    if (to === undefined && value > high) high = value;
  }
  if (log) return [low * 0.9, high * 1.1];
  const spare = (high - low) * 0.04 || 1;
  return [from ?? low - spare, to ?? high + spare];
}

/**
 * Curves over a common axis.
 *
 * options: lines [{name, points: [[x, y]], colour, dash}] (a y of null leaves a gap); x and y {label, log, ticks, from, to};
 * marks [{x, text}], upright lines; label for screen readers; say(x), what heads the hint; show(y), a number as text;
 * note(x), more lines of the hint. The element has `update(options)` and `picture()`.
 */
export function curves(options) {
  const [width, height, left, bottom] = [370, 270, 62, 44];
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "curves", role: "img", tabindex: 0, "aria-label": options.label });
  const live = h("span", { class: "unseen", "aria-live": "polite" });
  let cursor = null;
  let scales;
  let stops;

  const draw = () => {
    const lines = options.lines.filter((line) => line.points.length);
    const shown = lines.flatMap((line) => line.points).filter(([, y]) => y !== null && (!options.y.log || y > 0));
    const legend = placeLegend(lines, width - left);
    const top = 14 + 18 * legend.rows;
    const xs = curveLimits(shown.map(([x]) => x), { ...options.x, from: options.x.from ?? (options.x.log ? undefined : Math.min(...shown.map(([x]) => x))), to: options.x.to ?? (options.x.log ? undefined : Math.max(...shown.map(([x]) => x))) });
    const ys = curveLimits(shown.map(([, y]) => y), options.y);
    scales = { x: curveScale(options.x, ...xs, left, width - 20), y: curveScale(options.y, ...ys, height - bottom, top) };
    stops = [...new Set(shown.map(([x]) => x))].sort((a, b) => a - b);
    const [ink, muted, grid] = [colour("--ink"), colour("--muted"), colour("--line")];
    svg.replaceChildren();
    for (const value of curveTicks(options.y, ...ys)) {
      const y = scales.y(value);
      svg.append(s("line", { x1: left, x2: width - 20, y1: y, y2: y, stroke: grid, "stroke-width": 1 }),
        s("text", { x: left - 6, y: y + 4, "text-anchor": "end", "font-size": 12, fill: muted }, shortNumber(value, 3)));
    }
    for (const value of curveTicks(options.x, ...xs)) {
      svg.append(s("line", { x1: scales.x(value), x2: scales.x(value), y1: height - bottom, y2: height - bottom + 4, stroke: muted, "stroke-width": 1 }),
        s("text", { x: scales.x(value), y: height - bottom + 18, "text-anchor": "middle", "font-size": 12, fill: muted }, shortNumber(value, 3)));
    }
    svg.append(
      s("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle", "font-size": 12.5, fill: ink }, options.x.label),
      s("text", { transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle", "font-size": 12.5, fill: ink }, options.y.label),
    );
    for (const { x, text } of options.marks ?? []) {
      if (x < xs[0] || x > xs[1]) continue;
      const late = scales.x(x) > width * 0.7;
      svg.append(s("line", { x1: scales.x(x), x2: scales.x(x), y1: top, y2: height - bottom, stroke: muted, "stroke-dasharray": "3 3", "stroke-width": 1 }),
        s("text", { x: scales.x(x) + (late ? -4 : 4), y: top + 10, "text-anchor": late ? "end" : "start", "font-size": 11.5, fill: muted }, text));
    }
    lines.forEach((line, i) => {
      const paint = colour(line.colour ?? CURVE_COLOURS[i % CURVE_COLOURS.length]);
      svg.append(s("path", { d: curvePath(line.points, scales, options.y.log), fill: "none", stroke: paint, "stroke-width": 2, "stroke-dasharray": line.dash ?? "none" }));
      if (line.points.length <= 16) {
        line.points.filter(([, y]) => y !== null && (!options.y.log || y > 0)).forEach(([x, y]) => svg.append(s("circle", { cx: scales.x(x), cy: scales.y(y), r: 3, fill: paint })));
      }
      const at = legend.places[i];
      svg.append(s("line", { x1: left + at.x, x2: left + at.x + 16, y1: 10 + at.y, y2: 10 + at.y, stroke: paint, "stroke-width": 3, "stroke-dasharray": line.dash ?? "none" }),
        s("text", { x: left + at.x + 21, y: 14 + at.y, "font-size": 12.5, fill: ink }, line.name));
    });
    if (cursor !== null) drawCursor(lines);
  };

  const drawCursor = (lines) => {
    const x = stops[cursor];
    svg.append(s("line", { class: "cursor", x1: scales.x(x), x2: scales.x(x), y1: 14, y2: height - bottom, stroke: colour("--ink"), "stroke-width": 1, opacity: 0.5 }));
    lines.forEach((line, i) => {
      const point = line.points.find(([at]) => at === x);
      if (!point || point[1] === null || (options.y.log && point[1] <= 0)) return;
      svg.append(s("circle", { class: "cursor", cx: scales.x(x), cy: scales.y(point[1]), r: 4.5, fill: colour(line.colour ?? CURVE_COLOURS[i % CURVE_COLOURS.length]) }));
    });
  };

  const tell = () => {
    const x = stops[cursor];
    const rows = options.lines.flatMap((line) => {
      const point = line.points.find(([at]) => at === x);
      return point && point[1] !== null ? [h("div", {}, line.name, ": ", h("span", { class: "number" }, (options.show ?? shortNumber)(point[1])))] : [];
    });
    return [h("div", {}, h("strong", {}, options.say(x))), ...rows, ...(options.note?.(x) ?? [])];
  };
  const beside = () => {
    const box = svg.getBoundingClientRect();
    showHint(tell(), box.left + (scales.x(stops[cursor]) / width) * box.width, box.top + box.height / 2, beside);
  };
  const leave = () => {
    cursor = null;
    hideHint();
    draw();
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    cursor = stops.reduce((best, stop, i) => (Math.abs(scales.x(stop) - x) < Math.abs(scales.x(stops[best]) - x) ? i : best), 0);
    draw();
    showHint(tell(), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity }[event.key];
    if (jump === undefined) return;
    event.preventDefault();
    cursor = Math.max(0, Math.min(stops.length - 1, (cursor ?? (jump > 0 ? -1 : stops.length)) + jump));
    draw();
    beside();
    live.textContent = tell().map((part) => part.textContent).join("; ");
  });
  drawn(draw);
  const update = (changes) => {
    Object.assign(options, changes);
    cursor = null;
    draw();
  };
  return Object.assign(h("div", { class: "curves-box" }, svg, live), { update, picture: () => standalone(svg) });
}

/** Where each name of the legend goes: as many in a row as fit, by an estimate of their widths. */
function placeLegend(lines, width) {
  let [x, row] = [0, 0];
  const places = lines.map((line) => {
    const needed = 36 + line.name.length * 6.6;
    if (x > 0 && x + needed > width) [x, row] = [0, row + 1];
    const place = { x, y: row * 18 };
    x += needed;
    return place;
  });
  return { places, rows: row + 1 };
}

function curvePath(points, scales, log) {
  let path = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (y === null || (log && y <= 0)) {
      pen = "M";
      continue;
    }
    path += `${pen}${scales.x(x).toFixed(2)} ${scales.y(y).toFixed(2)}`;
    pen = "L";
  }
  return path;
}
