// A model behind an OpenAI-compatible API, whose answers are told to it piece by piece.

import { createServer } from 'node:http'

export class Model {
  asked = [] // the bodies of the requests for an answer
  left = [] // for each, a promise of its client's leaving before the end
  #next = []

  static async start() {
    const model = new Model()
    model.server = createServer((request, response) => model.#serve(request, response).catch(() => response.destroy()))
    await new Promise((resolve) => model.server.listen(0, '127.0.0.1', resolve))
    model.url = `http://127.0.0.1:${model.server.address().port}/v1`
    return model
  }

  /** Forgets what it was told to answer. */
  reset() {
    this.#next = []
  }

  end() {
    this.server.close()
    this.server.closeAllConnections()
  }

  /**
   * What it answers to the next question that has no answer yet: pieces of text, and promises of when to go on. A
   * number is the status of a refusal, with the headers that may follow it; what has a `finish` says why there is no more.
   * Without any it says what it was asked.
   */
  answers(...parts) {
    this.#next.push(parts)
  }

  async #serve(request, response) {
    let body = ''
    for await (const chunk of request) body += chunk
    if (request.method === 'GET') {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'parrot-1', object: 'model' }] }))
      return
    }
    const asked = JSON.parse(body)
    this.asked.push(asked)
    this.left.push(
      new Promise((resolve) => response.on('close', () => !response.writableFinished && resolve())),
    )
    const parts = this.#next.shift() ?? said(asked).match(/\S+\s*/g)
    if (typeof parts[0] === 'number') {
      response.writeHead(parts[0], { 'content-type': 'application/json', ...parts[1] })
      response.end(JSON.stringify({ error: { message: 'The parrot is unwell.' } }))
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    let finish = 'stop'
    for (const part of parts) {
      if (typeof part === 'string') response.write(event({ delta: { content: part } }))
      else if (part.finish) ({ finish } = part)
      else await part
    }
    response.end(`${event({ delta: {}, finish_reason: finish })}data: [DONE]\n\n`)
  }
}

function said({ messages }) {
  const { content } = messages.at(-1)
  const text = typeof content === 'string' ? content : content.find((part) => part.type === 'text')?.text
  return `You said: ${text ?? 'nothing'}`
}

function event(choice) {
  return `data: ${JSON.stringify({ object: 'chat.completion.chunk', choices: [{ index: 0, ...choice }] })}\n\n`
}

/** A promise, and what keeps it. */
export function gate() {
  let open
  const opened = new Promise((resolve) => (open = resolve))
  return { opened, open }
}
