// What the reader has chosen, in the address (#attention/layer=3&head=5), so that a link leads to the same view.

const listeners = new Map();

function read() {
  const [section, query = ""] = location.hash.replace(/^#/, "").split("/");
  return { section, values: Object.fromEntries(new URLSearchParams(query)) };
}

/** The values that the address gives for a section, {} where it names another one. */
export function stateOf(section) {
  const found = read();
  return found.section === section ? found.values : {};
}

/** Write a section's values into the address, without a new entry in the history. */
export function setState(section, values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
  const text = query.toString();
  try {
    history.replaceState(null, "", "#" + encodeURIComponent(section) + (text ? "/" + text : ""));
  } catch {
    // A page inside a notebook's frame has no address of its own.
  }
}

/** Call `listener(values)` when the address comes to name this section: a link followed, or the back button. */
export function onState(section, listener) {
  listeners.set(section, listener);
}

/** A whole number of the address within limits, else the fallback. */
export function wholeNumber(value, lowest, highest, fallback) {
  const number = Number(value);
  return Number.isInteger(number) && value !== "" && number >= lowest && number <= highest ? number : fallback;
}

/** Follow the address: scroll to its section and tell it the values. */
export function followAddress() {
  const { section, values } = read();
  const element = section && document.getElementById(section);
  if (!element) return;
  listeners.get(section)?.(values);
  element.scrollIntoView({ block: "start" });
}
