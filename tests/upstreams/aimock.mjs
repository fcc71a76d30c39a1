// aimock on a free port, with an answer or two; prints its URL, and ends when its standard input does.

import { createRequire } from 'node:module'

// Its modules need a newer Node than Debian 12's, for something that is not used here; its bundle does not.
const { LLMock } = createRequire(import.meta.url)('@copilotkit/aimock')

const mock = new LLMock({ port: 0, chunkSize: 6 })
mock.onMessage('hello', { content: 'Hello! I am a mock, and happy to be one.' })
mock.onMessage('in your language', { content: 'こんにちは — שלום — 🐦' })
await mock.start()
console.log(mock.url)
process.stdin.on('end', () => process.exit(0)).resume()
