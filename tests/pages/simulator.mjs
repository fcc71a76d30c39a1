// What a person does on the simulator's page while perch is connected to it as the bot.
//   node tests/pages/simulator.mjs http://127.0.0.1:8081 [--screenshots DIR]

import { check, same, visit } from './browser.mjs'

await visit('simulator page', async (person) => {
  const answer = await person.arrive({ colorScheme: 'dark' })

  const field = () => person.page.getByRole('textbox', { name: /^message/i })
  const messages = () => person.page.getByRole('log').first().getByRole('article')

  /** Types as a person does, so that a list of people to mention comes and goes. */
  const say = async (text) => {
    await field().click()
    await field().pressSequentially(text, { delay: 5 })
    await field().press('Enter')
  }
  /** Waits until the bot says exactly this, after `before` messages. */
  const hears = async (text, before) => {
    const reply = person.page.getByText(text, { exact: true })
    await messages().nth(before).filter({ has: reply }).waitFor()
  }

  await person.step('finds a channel to write in', async () => {
    same(answer.status(), 200, 'the status of /')
    await field().waitFor()
    await person.screenshot('begin')
  })

  await person.step('says hello to perch and hears it back', async () => {
    const before = await messages().count()
    await say('@perch hello')
    await hears('hello', before + 1)
    same(await field().evaluate((element) => element.value ?? element.textContent), '', 'the field after sending')
    await person.screenshot('hello')
  })

  await person.step('writes markup and sees it as text', async (page) => {
    const before = await messages().count()
    await say('@perch <img src=x onerror="document.title=1"> שלום')
    await hears('<img src=x onerror="document.title=1"> שלום', before + 1)
    check((await page.title()) !== '1', 'markup was run')
  })

  await person.step('talks to somebody else and is left alone', async () => {
    const before = await messages().count()
    await say('nobody in particular')
    await say('@perch still there?')
    await hears('still there?', before + 2)
  })

  await person.step('comes back and finds what was said', async (page) => {
    const before = await messages().count()
    await page.reload()
    await messages().nth(before - 1).waitFor()
    same(await messages().count(), before, 'the number of messages')
  })

  await person.arrive({ viewport: { width: 320, height: 640 }, colorScheme: 'light', reducedMotion: 'reduce' })
  await person.step('has a small screen', async () => {
    const before = await messages().count()
    await say('@perch on a phone')
    await hears('on a phone', before + 1)
    await person.fitsTheWindow()
    await person.screenshot('small')
  })
})
