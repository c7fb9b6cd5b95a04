// Numbers that describe what a head does.

const knownHabits = new WeakMap();

/** Entropy in bits, mean distance, the shares of a head's attention, and its habit in words, "" where it has none. */
export function habits(weights, head, item) {
  if (!knownHabits.has(item)) knownHabits.set(item, []);
  const found = knownHabits.get(item);
  return (found[head] ??= describeHead(weights, head, item));
}

function describeHead(weights, head, { kind, causal: isCausal, isSequence }) {
  const isSelf = kind !== "cross";
  const [, rows, columns] = weights.shape;
  const sums = { entropy: 0, most: 0, distance: 0, previous: 0, itself: 0, next: 0, first: 0, end: 0 };
  for (let i = 0; i < rows; i++) {
    const row = weights.row(head, i);
    for (let j = 0; j < columns; j++) {
      if (row[j] > 0) sums.entropy -= row[j] * Math.log2(row[j]);
      sums.distance += row[j] * Math.abs(i - j);
    }
    sums.most += Math.log2(isCausal ? i + 1 : columns);
    sums.previous += i > 0 ? (row[i - 1] ?? 0) : 0;
    sums.itself += row[i] ?? 0;
    sums.next += row[i + 1] ?? 0;
    sums.first += row[0];
    sums.end += row[columns - 1];
  }
  const means = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / rows]));
  const named = [
    ["looks at the first token", means.first],
    !isCausal && isSequence && ["looks at the end", means.end],
    isSelf && ["looks at itself", means.itself],
    isSelf && isSequence && ["looks at the previous token", means.previous],
    isSelf && isSequence && !isCausal && ["looks at the next token", means.next],
  ].filter(Boolean).sort((a, b) => b[1] - a[1]);
  const spreads = means.entropy > 0.85 * means.most && means.most > 0;
  return { ...means, habit: named[0][1] > 0.5 ? named[0][0] : spreads ? "spreads over everything" : "" };
}

/** The columns of the table of habits that make sense for this kind: [name, heading, digits, what it means]. */
export function habitColumns(item) {
  const self = item.kind !== "cross";
  const line = self && item.isSequence;
  return [
    ["entropy", "entropy", 2, "Mean entropy of the rows in bits: 0 looks at one token only"],
    line && ["distance", "distance", 1, "Mean distance between the token that looks and what it looks at, in tokens"],
    line && ["previous", "previous", 3, "Mean weight on the token before"],
    self && ["itself", "itself", 3, "Mean weight on the token itself"],
    line && !item.causal && ["next", "next", 3, "Mean weight on the token after"],
    ["first", "first", 3, "Mean weight on the first token"],
    item.isSequence && !item.causal && ["end", "end", 3, "Mean weight on the last token, often the end of the sentence"],
  ].filter(Boolean);
}
