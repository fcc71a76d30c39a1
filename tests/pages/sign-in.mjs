// The chat page of a perch that wants to know who somebody is.
//   node sign-in.mjs --perch target/debug/perch [--screenshots DIR] [--only NAME]

import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { check, same, tell, until } from './browser.mjs'
import { Chat, REFUSED, stage } from './chatting.mjs'

const KEY = `perch_${'5'.repeat(64)}`

/** perch that lets in whoever has the key. */
async function closed(binary) {
  const directory = mkdtempSync(join(tmpdir(), 'perch-keys-'))
  const file = join(directory, 'keys')
  writeFileSync(file, JSON.stringify({ ada: `sha256:${createHash('sha256').update(KEY).digest('hex')}` }))
  const set = await stage(binary, `[auth.api_keys]\nfile = "${file}"\n`)
  return { ...set, end: () => (set.end(), rmSync(directory, { recursive: true })) }
}

await tell('sign-in', closed, {
  async 'is asked who it is, and goes on where it was'(person) {
    person.forgiven = REFUSED
    const chat = await Chat.open(person)
    const token = person.page.getByLabel('API key or token')
    await token.waitFor()
    await person.screenshot('asked')
    await chat.say('who am I?')
    await token.fill(KEY.replaceAll('5', '6'))
    await token.press('Enter')
    await person.page.getByText('That key or token was not accepted.').waitFor()
    await person.isAccessible()
    await token.fill(KEY)
    await chat.button('Sign in').click()
    await chat.hears('You said: who am I?')
    await chat.list.first().waitFor()
    await person.page.reload()
    await chat.hears('You said: who am I?')
    const kept = await person.page.evaluate(() => [localStorage, sessionStorage].map((storage) => JSON.stringify(storage)))
    check(!kept[0].includes(KEY), 'the key outlives the tab')
    check(kept[1].includes(KEY), 'the key is not kept for the tab')
    await chat.field.fill('a secret thought')
    await person.page.locator('#files').setInputFiles({ name: 'secret.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4') })
    await person.page.locator('#attached .name').waitFor()
    await chat.button('Sign out').click()
    await token.waitFor()
    same(await chat.field.inputValue(), '', 'what somebody else sees of what was being written')
    same(await chat.questions.count(), 0, 'the number of questions that somebody else sees')
    await chat.button('New conversation').click()
    same(await person.page.locator('#attached .name').count(), 0, 'the number of files that somebody else sees')
    const files = await person.page.evaluate(
      () =>
        new Promise((resolve) => {
          indexedDB.open('perch').onsuccess = ({ target: { result: database } }) => {
            const all = database.transaction('files').objectStore('files').getAllKeys()
            all.onsuccess = () => resolve(all.result)
          }
        }),
    )
    same(files, [], 'the files that the browser keeps')
  },

  async 'is asked again after so many wrong tries that no more are looked at'(person) {
    person.forgiven = REFUSED
    await Chat.open(person)
    const token = person.page.getByLabel('API key or token')
    const says = person.page.locator('#token-says')
    const out = person.page.getByRole('button', { name: 'Sign out' })
    for (let tries = 0; !(await says.textContent()).startsWith('Too many tries'); tries += 1) {
      check(tries < 100, 'wrong tries are looked at for ever')
      await token.fill(KEY.replaceAll('5', '6'))
      await token.press('Enter')
      await says.filter({ hasText: /\S/ }).waitFor()
      await token.waitFor()
    }
    const told = await says.textContent()
    check(/^Too many tries to sign in have failed from your address\. Try again in \d+ seconds?\.$/.test(told), `it says ${told}`)
    await person.isAccessible()
    const kept = await person.page.evaluate(() => Object.keys(sessionStorage))
    check(!kept.includes('perch.token'), 'a wrong token is kept')
    await until(async () => {
      await token.fill(KEY)
      await token.press('Enter')
      await out.or(says.filter({ hasText: /\S/ })).first().waitFor()
      return out.isVisible()
    }, 'being let in')
  },
})
