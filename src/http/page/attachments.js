// Files that go with a message: checked before they are sent, and shown as they will be.

import { icon, make } from './dom.js'
import { counted, size, words } from './words.js'

export const MOST = 4
const LARGEST = 5 * 1024 * 1024 // bytes

const KINDS = {
  pdf: { type: 'application/pdf', begins: ['%PDF-'] },
  png: { type: 'image/png', begins: ['\x89PNG\r\n\x1a\n'] },
  jpg: { type: 'image/jpeg', begins: ['\xff\xd8\xff'] },
  jpeg: { type: 'image/jpeg', begins: ['\xff\xd8\xff'] },
  gif: { type: 'image/gif', begins: ['GIF87a', 'GIF89a'] },
}

/** For a file field. */
export const ACCEPT = [...Object.keys(KINDS).map((ending) => `.${ending}`), ...Object.values(KINDS).map(({ type }) => type)].join()

/** A file that can be sent, and shown. */
export function ready({ name, blob }) {
  const picture = blob.type.startsWith('image/') ? URL.createObjectURL(blob) : null
  return { name, size: blob.size, type: blob.type, blob, picture }
}

/** Takes of `files` what may go with the `already` chosen ones: `{taken, refused}`, the latter being sentences. */
export async function choose(files, already) {
  const taken = []
  const refused = []
  for (const file of files) {
    const kind = KINDS[file.name.split('.').at(-1).toLowerCase()]
    const start = await file.slice(0, 8).arrayBuffer().catch(() => new ArrayBuffer())
    const first = String.fromCharCode(...new Uint8Array(start))
    if (!kind || !file.name.includes('.')) refused.push(words.wrongKind(file.name))
    else if (file.size > LARGEST) refused.push(words.tooLarge(file.name, size(file.size)))
    else if (!kind.begins.some((begin) => first.startsWith(begin))) refused.push(words.wrongContent(file.name))
    else if (already.length + taken.length >= MOST) {
      refused.push(counted(words.tooMany, MOST))
      break
    } else {
      // Some systems name no type, or another; perch goes by the name and the content.
      const blob = file.type === kind.type ? file : new Blob([file], { type: kind.type })
      taken.push(ready({ name: file.name, blob }))
    }
  }
  return { taken, refused }
}

/** A file as it is shown, with a button where it can be taken away. */
export function chip(file, onRemove) {
  const sign = file.picture ? make('img', { src: file.picture, alt: '' }) : icon('file')
  const name = make('bdi', { class: 'name' }, file.name)
  const about = make('span', { class: 'about' }, name, ...(file.size ? [make('small', {}, size(file.size))] : []))
  const item = make('li', { class: file.picture ? 'chip picture' : 'chip' }, sign, about)
  if (onRemove) {
    const button = make('button', { type: 'button', class: 'icon-button', 'aria-label': words.remove(file.name) }, icon('close'))
    button.addEventListener('click', onRemove)
    item.append(button)
  }
  return item
}
