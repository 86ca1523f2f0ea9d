/**
 * Layouts: what a <perspective-viewer> saves of its panels, kept in this browser for each table, or carried by a link that people
 * send each other. The theme is the reader's own, and no part of it.
 */

const key = (table) => `parallax.layout.${table}`;

/** Return something kept in this browser, or null: also where nothing may be kept. */
export function remembered(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

/** Keep something in this browser as far as it allows; null forgets it. */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: it is kept until the page is left.
  }
}

export const saved = (table) => remembered(key(table));
export const save = (table, layout) => remember(key(table), layout);

/** Return what is worth keeping of `viewer.saveWorkspace()`. */
export function withoutThemes({ layout, panels }) {
  return { layout, panels: eachPanel(panels, ({ theme, ...panel }) => panel) };
}

export const withTheme = ({ layout, panels }, theme) => ({ layout, panels: eachPanel(panels, (panel) => ({ ...panel, theme })) });

const eachPanel = (panels, change) => Object.fromEntries(Object.entries(panels).map(([name, panel]) => [name, change(panel)]));

export const tablesOf = (layout) => [...new Set(Object.values(layout.panels).map(({ table }) => table))];

/** Return the layout without the panels that fit none of the tables (name -> names of its columns), or null if nothing is left. */
export function fitting({ layout, panels }, columns) {
  const kept = Object.fromEntries(Object.entries(panels).filter(([, panel]) => fits(panel, columns.get(panel.table))));
  const left = prune(layout, kept);
  return left && { layout: left, panels: kept };
}

function fits({ columns = [], group_by = [], split_by = [], sort = [], filter = [], expressions = {} }, known) {
  const used = [...columns, ...group_by, ...split_by, ...[...sort, ...filter].map(([name]) => name)];
  return known !== undefined && used.every((name) => name === null || known.includes(name) || name in expressions);
}

function prune(node, kept) {
  if (node.type === "tab-layout") {
    const tabs = node.tabs.filter((name) => name in kept);
    return tabs.length ? { ...node, tabs, selected: Math.min(node.selected ?? 0, tabs.length - 1) } : null;
  }
  const children = node.children.map((child) => prune(child, kept));
  const sizes = node.sizes.filter((_, position) => children[position]);
  const whole = sizes.reduce((sum, size) => sum + size, 0);
  const left = children.filter(Boolean);
  return left.length < 2 ? (left[0] ?? null) : { ...node, children: left, sizes: sizes.map((size) => size / whole) };
}

// In an address ---------------------------------------------------------------------------------------------------------

/** Return a layout as letters that an address may hold. */
export async function packed(layout) {
  const bytes = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(JSON.stringify(layout)));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Return the layout of such letters, or null if they are none. */
export async function unpacked(letters) {
  try {
    const bytes = Uint8Array.from(atob(letters.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const { layout, panels } = JSON.parse(new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), bytes)));
    return layout && panels ? { layout, panels } : null;
  } catch {
    return null;
  }
}

const through = async (stream, bytes) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
