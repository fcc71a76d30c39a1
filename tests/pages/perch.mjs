// perch beside the browser: a process of its own that a story can end, and start again where it was.

import { spawn } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const PATIENCE = 30_000 // milliseconds

export class Perch {
  /** perch with this model behind its chat, and these lines at the end of its configuration. */
  static async start(binary, model, lines = '') {
    const perch = new Perch()
    perch.binary = binary
    perch.port = await freePort()
    perch.address = `http://127.0.0.1:${perch.port}`
    perch.directory = mkdtempSync(join(tmpdir(), 'perch-pages-'))
    writeFileSync(
      join(perch.directory, 'perch.toml'),
      `[http]
listen = "127.0.0.1:${perch.port}"
[chat]
backend = "openai"
base_url = "${model.url}"
model = "parrot-1"
attachments = ["images", "pdf"]
# A story says in seconds what a person says in an hour.
[limits.address]
requests_per_minute = "off"
files_per_minute = "off"
[limits.person]
requests_per_minute = "off"
${lines}`,
    )
    process.on('exit', () => perch.end())
    await perch.again()
    return perch
  }

  /** Starts it, again in the same directories and at the same address. */
  async again() {
    const log = openSync(join(this.directory, 'log'), 'a')
    this.child = spawn(this.binary, ['run', '--config', join(this.directory, 'perch.toml'), '--log', 'json'], {
      env: {
        PATH: process.env.PATH,
        STATE_DIRECTORY: join(this.directory, 'state'),
        RUNTIME_DIRECTORY: join(this.directory, 'run'),
        AWS_EC2_METADATA_DISABLED: 'true',
      },
      stdio: ['ignore', log, log],
    })
    this.ended = new Promise((resolve) => this.child.on('exit', resolve))
    const deadline = Date.now() + PATIENCE
    for (;;) {
      const answer = await fetch(`${this.address}/ready`).catch(() => null)
      if (answer?.ok) return
      if (Date.now() > deadline || this.child.exitCode !== null) throw new Error(`perch does not start: ${this.log()}`)
      await pause(20)
    }
  }

  /** Ends it as a crash does. */
  async crash() {
    this.child.kill('SIGKILL')
    await this.ended
  }

  /** Whether this is in the database. */
  wrote(text) {
    return ['perch.db', 'perch.db-wal'].some((name) => readFileSync(join(this.directory, 'state', name)).includes(text))
  }

  log() {
    return readFileSync(join(this.directory, 'log'), 'utf8')
  }

  end() {
    this.child?.kill('SIGKILL')
    rmSync(this.directory, { recursive: true, force: true })
  }
}

async function freePort() {
  const server = createServer()
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  await new Promise((resolve) => server.close(resolve))
  return port
}
