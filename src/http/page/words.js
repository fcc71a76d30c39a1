// What the page says, in the language that the person's browser asks for first among those that are here.

const en = {
  skip: 'Skip to the message field',
  conversations: 'Conversations',
  conversation: 'Conversation',
  newConversation: 'New conversation',
  noConversations: 'What you talk about is kept here.',
  noList: 'Your conversations can’t be listed at the moment.',
  more: 'Show older',
  underWay: 'perch is answering',
  you: 'You',
  welcome: 'Say something, perch answers.',
  message: 'Message',
  placeholder: 'Message perch',
  keys: 'Enter sends, Shift + Enter begins a new line',
  send: 'Send',
  stop: 'Stop',
  latest: 'Go to the latest message',
  attach: 'Attach files',
  attached: 'Attached files',
  drop: 'Drop files to attach them',
  kinds: 'PDF, PNG, JPEG or GIF, 5 MiB each',
  remove: (name) => `Remove ${name}`,
  unit: { KiB: 'KiB', MiB: 'MiB' },
  wrongKind: (name) => `“${name}” is not a PDF, PNG, JPEG or GIF.`,
  wrongContent: (name) => `“${name}” does not hold what its name says.`,
  tooLarge: (name, size) => `“${name}” has ${size}; 5 MiB is the most.`,
  tooMany: { one: 'No more than {n} file goes with a message.', other: 'No more than {n} files go with a message.' },
  filesLost: 'The files are gone, as the page was left. Attach them again.',
  waiting: 'Waiting for perch',
  queued: 'Comes after the answer above',
  lost: 'The connection was lost. Trying again…',
  elsewhere: 'Being answered in another window…',
  stopped: 'Stopped',
  broken: 'The answer was not finished.',
  unanswered: 'This message was not answered.',
  retry: 'Retry',
  again: 'Answer again',
  edit: 'Edit',
  copy: 'Copy',
  copied: 'Copied',
  copyAnswer: 'Copy the answer',
  copyCode: 'Copy the code',
  code: 'Code',
  codeIn: (language) => `Code, ${language}`,
  table: 'Table',
  done: 'Done',
  open: 'Not done',
  reference: (id) => `Request ${id}`,
  after: (time) => `Try again ${time}.`,
  trying: (time) => `Trying again ${time}…`,
  cut: 'The answer was cut off at its limit. Write “continue” to read on.',
  forgotten: 'perch no longer remembers what was said above.',
  gone: 'There is no such conversation. It was deleted, or it is not yours.',
  notOpened: 'This conversation can’t be opened at the moment.',
  remove1: (title) => `Delete “${title}”`,
  confirm1: (title) => `Delete “${title}”?`,
  confirmAll: 'Delete all conversations?',
  forGood: 'perch forgets it for good.',
  delete: 'Delete',
  deleteAll: 'Delete all',
  deleted: 'Deleted',
  notDeleted: 'It could not be deleted.',
  cancel: 'Cancel',
  export: 'Download all',
  notExported: 'It could not be downloaded.',
  signIn: 'Sign in',
  signInWhy: 'This perch asks who you are.',
  token: 'API key or token',
  tokenRefused: 'That key or token was not accepted.',
  signOut: 'Sign out',
  dismiss: 'Dismiss',
  unreachable: 'perch can’t be reached: it is stopped, or the network is down.',
  silent: 'perch did not answer in time.',
  unreadable: 'What came back can’t be read.',
  problem: (status) => `perch answered with an error (${status}).`,
  problems: {},
}

const ja = {
  skip: 'メッセージ欄へ移動',
  conversations: '会話一覧',
  conversation: '会話',
  newConversation: '新しい会話',
  noConversations: '会話はここに残ります。',
  noList: '現在、会話の一覧を表示できません。',
  more: '以前の会話を表示',
  underWay: 'perch が回答中',
  you: 'あなた',
  welcome: '話しかけると、perch が答えます。',
  message: 'メッセージ',
  placeholder: 'メッセージを入力',
  keys: 'Enter で送信、Shift + Enter で改行',
  send: '送信',
  stop: '停止',
  latest: '最新のメッセージへ移動',
  attach: 'ファイルを添付',
  attached: '添付ファイル',
  drop: 'ここにドロップして添付',
  kinds: 'PDF・PNG・JPEG・GIF、1 件 5 MiB まで',
  remove: (name) => `${name} を取り除く`,
  unit: { KiB: 'KiB', MiB: 'MiB' },
  wrongKind: (name) => `「${name}」は PDF・PNG・JPEG・GIF のいずれでもありません。`,
  wrongContent: (name) => `「${name}」の内容が、ファイル名の示す形式と一致しません。`,
  tooLarge: (name, size) => `「${name}」は ${size} あります。上限は 5 MiB です。`,
  tooMany: { other: '1 通のメッセージに添付できるファイルは {n} 件までです。' },
  filesLost: 'ページを離れたため、ファイルが失われました。もう一度添付してください。',
  waiting: 'perch の回答を待っています',
  queued: '上の回答のあとに送信します',
  lost: '接続が切れました。再試行しています…',
  elsewhere: '別のウィンドウで回答中です…',
  stopped: '停止しました',
  broken: '回答は途中で終わりました。',
  unanswered: 'このメッセージには回答がありませんでした。',
  retry: '再試行',
  again: 'もう一度回答する',
  edit: '編集',
  copy: 'コピー',
  copied: 'コピーしました',
  copyAnswer: '回答をコピー',
  copyCode: 'コードをコピー',
  code: 'コード',
  codeIn: (language) => `コード（${language}）`,
  table: '表',
  done: '完了',
  open: '未完了',
  reference: (id) => `リクエスト ${id}`,
  after: (time) => `${time}にもう一度お試しください。`,
  trying: (time) => `${time}に再試行します…`,
  cut: '回答は上限に達し、途中で切れました。「続けて」と送ると続きを読めます。',
  forgotten: 'ここまでの内容は、perch の記憶に残っていません。',
  gone: 'この会話は存在しません。削除されたか、別の人の会話です。',
  notOpened: '現在、この会話を開けません。',
  remove1: (title) => `「${title}」を削除`,
  confirm1: (title) => `「${title}」を削除しますか？`,
  confirmAll: 'すべての会話を削除しますか？',
  forGood: '削除すると元に戻せません。',
  delete: '削除',
  deleteAll: 'すべて削除',
  deleted: '削除しました',
  notDeleted: '削除できませんでした。',
  cancel: 'キャンセル',
  export: 'すべてダウンロード',
  notExported: 'ダウンロードできませんでした。',
  signIn: 'サインイン',
  signInWhy: 'この perch を使うにはサインインが必要です。',
  token: 'API キーまたはトークン',
  tokenRefused: 'このキーまたはトークンは受け付けられませんでした。',
  signOut: 'サインアウト',
  dismiss: '閉じる',
  unreachable: 'perch に接続できません。停止しているか、ネットワークが切れています。',
  silent: '時間内に perch から応答がありませんでした。',
  unreadable: '応答を読み取れませんでした。',
  problem: (status) => `perch がエラーを返しました（${status}）。`,
  problems: {
    400: 'このメッセージは受け付けられませんでした。',
    403: 'この操作は許可されていません。',
    408: '送信に時間がかかりすぎました。',
    413: 'メッセージまたはファイルが大きすぎます。',
    415: 'このファイルは受け付けられませんでした。',
    422: 'モデルはこのメッセージに回答できませんでした。',
    429: '短い間に送信しすぎました。',
    500: 'perch の内部で問題が起きました。',
    502: 'モデルから回答を最後まで得られませんでした。',
    503: '現在、perch は応答できません。',
    504: 'モデルの回答に時間がかかりすぎました。',
  },
}

// A no-break space stands before the signs that French sets apart.
const fr = {
  skip: 'Aller au champ de message',
  conversations: 'Conversations',
  conversation: 'Conversation',
  newConversation: 'Nouvelle conversation',
  noConversations: 'Vos conversations seront conservées ici.',
  noList: 'Vos conversations ne peuvent pas être affichées pour le moment.',
  more: 'Afficher les plus anciennes',
  underWay: 'perch est en train de répondre',
  you: 'Vous',
  welcome: 'Dites quelque chose, perch vous répond.',
  message: 'Message',
  placeholder: 'Écrire à perch',
  keys: 'Entrée pour envoyer, Maj + Entrée pour aller à la ligne',
  send: 'Envoyer',
  stop: 'Arrêter',
  latest: 'Aller au dernier message',
  attach: 'Joindre des fichiers',
  attached: 'Fichiers joints',
  drop: 'Déposez les fichiers pour les joindre',
  kinds: 'PDF, PNG, JPEG ou GIF, 5 Mio chacun',
  remove: (name) => `Retirer ${name}`,
  unit: { KiB: 'Kio', MiB: 'Mio' },
  wrongKind: (name) => `« ${name} » n’est pas un fichier PDF, PNG, JPEG ou GIF.`,
  wrongContent: (name) => `Le contenu de « ${name} » ne correspond pas à son nom.`,
  tooLarge: (name, size) => `« ${name} » fait ${size} ; le maximum est de 5 Mio.`,
  tooMany: { one: 'Pas plus de {n} fichier par message.', other: 'Pas plus de {n} fichiers par message.' },
  filesLost: 'Les fichiers ont été perdus en quittant la page. Joignez-les de nouveau.',
  waiting: 'En attente de perch',
  queued: 'Partira après la réponse ci-dessus',
  lost: 'La connexion a été perdue. Nouvel essai…',
  elsewhere: 'Réponse en cours dans une autre fenêtre…',
  stopped: 'Arrêté',
  broken: 'La réponse est restée inachevée.',
  unanswered: 'Ce message est resté sans réponse.',
  retry: 'Réessayer',
  again: 'Répondre de nouveau',
  edit: 'Modifier',
  copy: 'Copier',
  copied: 'Copié',
  copyAnswer: 'Copier la réponse',
  copyCode: 'Copier le code',
  code: 'Code',
  codeIn: (language) => `Code, ${language}`,
  table: 'Tableau',
  done: 'Fait',
  open: 'À faire',
  reference: (id) => `Requête ${id}`,
  after: (time) => `Réessayez ${time}.`,
  trying: (time) => `Nouvel essai ${time}…`,
  cut: 'La réponse a été coupée à sa limite. Écrivez « continue » pour lire la suite.',
  forgotten: 'perch ne se souvient plus de ce qui a été dit plus haut.',
  gone: 'Cette conversation n’existe pas. Elle a été supprimée, ou elle n’est pas à vous.',
  notOpened: 'Cette conversation ne peut pas être ouverte pour le moment.',
  remove1: (title) => `Supprimer « ${title} »`,
  confirm1: (title) => `Supprimer « ${title} » ?`,
  confirmAll: 'Supprimer toutes les conversations ?',
  forGood: 'perch l’oubliera définitivement.',
  delete: 'Supprimer',
  deleteAll: 'Tout supprimer',
  deleted: 'Supprimé',
  notDeleted: 'La suppression a échoué.',
  cancel: 'Annuler',
  export: 'Tout télécharger',
  notExported: 'Le téléchargement a échoué.',
  signIn: 'Se connecter',
  signInWhy: 'perch demande qui vous êtes.',
  token: 'Clé d’API ou jeton',
  tokenRefused: 'Cette clé ou ce jeton n’a pas été accepté.',
  signOut: 'Se déconnecter',
  dismiss: 'Fermer',
  unreachable: 'perch est injoignable : il est arrêté, ou le réseau est coupé.',
  silent: 'perch n’a pas répondu à temps.',
  unreadable: 'La réponse reçue est illisible.',
  problem: (status) => `perch a répondu par une erreur (${status}).`,
  problems: {
    400: 'Ce message n’a pas été accepté.',
    403: 'Cette action n’est pas autorisée.',
    408: 'L’envoi a pris trop de temps.',
    413: 'Le message ou un fichier est trop grand.',
    415: 'Un fichier n’a pas été accepté.',
    422: 'Le modèle n’a pas pu répondre à ce message.',
    429: 'Trop de messages en peu de temps.',
    500: 'Un problème est survenu dans perch.',
    502: 'Le modèle n’a pas donné de réponse complète.',
    503: 'perch ne peut pas répondre pour le moment.',
    504: 'Le modèle a mis trop de temps à répondre.',
  },
}

const languages = { en, ja, fr }
const asked = navigator.languages.map((tag) => tag.split('-')[0].toLowerCase())

export const language = asked.find((tag) => tag in languages) ?? 'en'
export const words = languages[language]

const rules = new Intl.PluralRules(language)
const numbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 })
const relative = new Intl.RelativeTimeFormat(language, { numeric: 'auto' })
const time = new Intl.DateTimeFormat(language, { timeStyle: 'short' })
const timeAndDay = new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'short' })
const month = new Intl.DateTimeFormat(language, { month: 'long', year: 'numeric' })

/** The form of a sentence that fits `count`. */
export function counted(forms, count) {
  return (forms[rules.select(count)] ?? forms.other).replace('{n}', numbers.format(count))
}

export function size(bytes) {
  const unit = bytes < 1024 * 1024 ? 'KiB' : 'MiB'
  const amount = bytes / (unit === 'KiB' ? 1024 : 1024 * 1024)
  // What is just over a limit may not look as if it were within.
  return `${numbers.format(Math.ceil(amount * 10) / 10)} ${words.unit[unit]}`
}

/** "in 12 seconds", "in 5 minutes", "in 3 hours", "in 2 days" */
export function inSeconds(seconds) {
  const units = [['second', 1, 90], ['minute', 60, 90], ['hour', 3_600, 36], ['day', 86_400, Infinity]]
  const [unit, length] = units.find(([, length, most]) => Math.ceil(seconds / length) <= most)
  return relative.format(Math.ceil(seconds / length), unit)
}

const day = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate())
const daysAgo = (date) => Math.round((day(new Date()) - day(date)) / 86_400_000)

/** "10:35", with the day unless that is today. */
export function moment(date) {
  return (daysAgo(date) === 0 ? time : timeAndDay).format(date)
}

/** "today", "yesterday", "March 2026" */
export function period(date) {
  const days = daysAgo(date)
  const text = days < 2 ? relative.format(-Math.max(days, 0), 'day') : month.format(date)
  return text[0].toLocaleUpperCase(language) + text.slice(1)
}

/** Says in this language all that the document says itself. */
export function translate() {
  document.documentElement.lang = language
  for (const element of document.querySelectorAll('[data-words]')) element.textContent = words[element.dataset.words]
  for (const attribute of ['aria-label', 'placeholder', 'title']) {
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) {
      element.setAttribute(attribute, words[element.getAttribute(`data-${attribute}`)])
    }
  }
}
