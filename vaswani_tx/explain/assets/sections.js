// The sections of the page: each file of `sections/` adds itself.

export const SECTIONS = [];
