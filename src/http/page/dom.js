// Elements without markup: text is text, whatever it says.

export const byId = (id) => document.getElementById(id)

/** An element with these attributes (`true` is an empty one, `false` and `null` none) and children, also in arrays. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  // Before `dir`, as a direction that goes by the content is looked for again with each child. One by one, as there may
  // be more of them than a call takes arguments.
  for (const child of children.flat()) element.append(child)
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(attribute, '')
    else if (value !== false && value !== null) element.setAttribute(attribute, value)
  }
  return element
}

const PATHS = {
  again: 'M4 12a8 8 0 1 0 2.6-5.9M4 4v4.5h4.5',
  arrow: 'M12 20V5m-6.5 6.5L12 5l6.5 6.5',
  bin: 'M4 7h16M9.5 7V4.5h5V7M6.5 7l1 12.5h9l1-12.5M10 11v5m4-5v5',
  close: 'm6 6 12 12M18 6 6 18',
  down: 'M12 5v14m-6-6 6 6 6-6',
  file: 'M6.5 3h7l4 4v14h-11zM13 3v4.5h4.5',
}

/** A drawing of one line, which says nothing to a screen reader. */
export function icon(name) {
  const space = 'http://www.w3.org/2000/svg'
  const [svg, path] = ['svg', 'path'].map((part) => document.createElementNS(space, part))
  for (const [attribute, value] of Object.entries({ viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true' })) {
    svg.setAttribute(attribute, value)
  }
  path.setAttribute('d', PATHS[name])
  svg.append(path)
  return svg
}
