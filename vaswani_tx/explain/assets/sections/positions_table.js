// The sinusoids of section 3.5 as pure functions: no page, no model.

/** The angle behind one number of the table: position / 10000^(2i/d), where 2i and 2i+1 are one pair of dimensions. */
export function sinusoidAngle(position, dimension, width) {
  return position / 10000 ** ((2 * Math.floor(dimension / 2)) / width);
}

/** One row, interleaved as in the paper: sine in the even dimensions, cosine in the odd ones. */
export function sinusoidRow(position, width) {
  const row = new Float64Array(width);
  for (let pair = 0; pair < width / 2; pair++) {
    const angle = sinusoidAngle(position, 2 * pair, width);
    row[2 * pair] = Math.sin(angle);
    row[2 * pair + 1] = Math.cos(angle);
  }
  return row;
}

/** The rows of positions 0 to length - 1. */
export function sinusoidTable(length, width) {
  return Array.from({ length }, (_, position) => sinusoidRow(position, width));
}

/** The same numbers as other programs lay them out: all sines, then all cosines. */
export function inHalves(row) {
  return Float64Array.from(row, (_, j) => row[j < row.length / 2 ? 2 * j : 2 * (j - row.length / 2) + 1]);
}

/** Rows for the patches of a grid: half of the dimensions for the row and half for the column; row 0 is the class token. */
export function gridTable(rows, columns, width) {
  const join = (a, b) => Float64Array.from([...sinusoidRow(a, width / 2), ...sinusoidRow(b, width / 2)]);
  const patches = Array.from({ length: rows * columns }, (_, i) => join(1 + Math.floor(i / columns), 1 + (i % columns)));
  return [join(0, 0), ...patches];
}

/** The positions after which a dimension repeats: from 2 pi to nearly 10000 times 2 pi. */
export function sinusoidWavelength(dimension, width) {
  return (2 * Math.PI) / sinusoidAngle(1, dimension, width);
}

/** The dot product of the rows of two positions, which depends on their distance alone. */
export function offsetDot(offset, width) {
  let sum = 0;
  for (let pair = 0; pair < width / 2; pair++) sum += Math.cos(sinusoidAngle(offset, 2 * pair, width));
  return sum;
}

/** Turn each pair of dimensions of a row by offset times its frequency: PE(p) becomes PE(p + offset). */
export function rotatedRow(row, offset) {
  const turned = new Float64Array(row.length);
  for (let pair = 0; pair < row.length / 2; pair++) {
    const turn = sinusoidAngle(offset, 2 * pair, row.length);
    const [sine, cosine] = [row[2 * pair], row[2 * pair + 1]];
    turned[2 * pair] = Math.cos(turn) * sine + Math.sin(turn) * cosine;
    turned[2 * pair + 1] = -Math.sin(turn) * sine + Math.cos(turn) * cosine;
  }
  return turned;
}

/** The largest difference of two lists of rows, number by number. */
export function largestDifference(some, others) {
  let largest = 0;
  some.forEach((row, i) => row.forEach((value, j) => {
    largest = Math.max(largest, Math.abs(value - others[i][j]));
  }));
  return largest;
}

/** The dot product of two rows. */
export function dotProduct(a, b) {
  return a.reduce((sum, value, j) => sum + value * b[j], 0);
}
