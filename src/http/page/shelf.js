// Files that were chosen and have no answer yet, for as long as the browser keeps them: over a reload as well. Where
// there is no IndexedDB, or no room, they last as long as the page.

import { tab } from './kept.js'

const STORE = 'files'
const LARGEST = 64 * 1024 * 1024 // bytes, in all: a few messages with all the files that they take
const OLDEST = 7 * 24 * 3_600_000 // milliseconds

let opened = null

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open('perch', 1)
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: 'place' })
    request.onsuccess = () => resolve(request.result)
    request.onerror = request.onblocked = () => reject(request.error)
  })
  return opened
}

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })

/** Does `work` with the store; transactions keep the order in which they were asked for. */
async function within(mode, work) {
  try {
    const store = (await database()).transaction(STORE, mode).objectStore(STORE)
    return await work(store)
  } catch {
    return null // see above
  }
}

const bytes = ({ files }) => files.reduce((sum, { blob }) => sum + blob.size, 0)

const ATTACHED = 'attached '
/** Where the files are that are being attached in a conversation, in this tab; `null` stands for a new one. */
export const attachedIn = (conversation) => `${ATTACHED}${tab} ${conversation ?? ''}`
/** And those of a message that was sent, by its key. */
export const sentWith = (key) => `sent ${key}`

export const shelf = {
  /** What is at `place`: `[{name, blob}]`. */
  async at(place) {
    const record = await within('readonly', (store) => result(store.get(place)))
    return record?.files ?? []
  },

  /** These and no others are at `place` from now on. */
  async put(place, files) {
    const kept = files.filter(({ blob }) => blob).map(({ name, blob }) => ({ name, blob }))
    if (!kept.length) return this.drop(place)
    return within('readwrite', async (store) => {
      store.put({ place, files: kept, at: Date.now() })
      const records = (await result(store.getAll())).sort((a, b) => b.at - a.at)
      let room = LARGEST
      for (const record of records) {
        room -= bytes(record)
        if (room < 0 || Date.now() - record.at > OLDEST) store.delete(record.place)
      }
    })
  },

  drop: (place) => within('readwrite', (store) => result(store.delete(place))),

  /** A conversation is gone, with all that any tab was attaching in it. */
  forget: (conversation) =>
    within('readwrite', async (store) => {
      const places = await result(store.getAllKeys())
      const there = (place) => place.startsWith(ATTACHED) && place.endsWith(` ${conversation}`)
      for (const place of places.filter(there)) store.delete(place)
    }),

  clear: () => within('readwrite', (store) => result(store.clear())),
}
