//! The world as Discord's JSON objects.
//!
//! Sources: the resources User, Guild, Channel, Message and Application; gateway events "Ready", "Guild Create".

use serde_json::{Map, Value, json};

use super::snowflake::{Snowflake, iso8601};
use super::world::{Channel, ChannelKind, Message, Person, Role, World, permission};

/// Source: Channel Resource, "Channel Flags".
const OBFUSCATED: u64 = 1 << 17;

pub fn user(person: &Person) -> Value {
    json!({
        "id": person.id,
        "username": person.name,
        "global_name": if person.bot { Value::Null } else { json!(person.display_name) },
        "discriminator": if person.bot { "4242" } else { "0" },
        "avatar": null,
        "avatar_decoration_data": null,
        "banner": null,
        "accent_color": null,
        "bot": person.bot,
        "system": false,
        "public_flags": 0,
        "flags": 0,
    })
}

/// The bot itself, as `GET /users/@me` and READY show it.
pub fn current_user(world: &World) -> Value {
    let mut object = world.people.get(&world.bot).map_or_else(|| json!({}), user);
    object["mfa_enabled"] = json!(true);
    object["verified"] = json!(true);
    object["email"] = Value::Null;
    object["locale"] = json!("en-US");
    object
}

/// A member without its user, as messages and mentions carry it.
pub fn partial_member(person: &Person) -> Value {
    json!({
        "roles": person.roles,
        "nick": null,
        "avatar": null,
        "banner": null,
        "joined_at": iso8601(person.id.created_ms()),
        "premium_since": null,
        "communication_disabled_until": null,
        "deaf": false,
        "mute": false,
        "pending": false,
        "flags": 0,
    })
}

pub fn member(person: &Person) -> Value {
    let mut object = partial_member(person);
    object["user"] = user(person);
    object
}

pub fn role(role: &Role, position: usize) -> Value {
    let mut object = json!({
        "id": role.id,
        "name": role.name,
        "color": 0,
        "colors": { "primary_color": 0, "secondary_color": null, "tertiary_color": null },
        "hoist": false,
        "icon": null,
        "unicode_emoji": null,
        "position": position,
        "permissions": role.permissions.to_string(),
        "managed": role.of_bot.is_some(),
        "mentionable": role.mentionable,
        "flags": 0,
    });
    if let Some(bot) = role.of_bot {
        object["tags"] = json!({ "bot_id": bot });
    }
    object
}

/// The guild as REST shows it.
pub fn guild(world: &World) -> Value {
    let guild = &world.guild;
    let roles: Vec<_> = guild.roles.iter().enumerate().map(|(position, it)| role(it, position)).collect();
    json!({
        "id": guild.id,
        "name": guild.name,
        "icon": null,
        "icon_hash": null,
        "splash": null,
        "discovery_splash": null,
        "owner_id": guild.owner,
        "region": null,
        "afk_channel_id": null,
        "afk_timeout": 300,
        "widget_enabled": false,
        "widget_channel_id": null,
        "verification_level": 0,
        "default_message_notifications": 1,
        "explicit_content_filter": 0,
        "roles": roles,
        "emojis": [],
        "features": [],
        "mfa_level": 0,
        "application_id": null,
        "system_channel_id": null,
        "system_channel_flags": 0,
        "rules_channel_id": null,
        "max_presences": null,
        "max_members": 500_000,
        "vanity_url_code": null,
        "description": null,
        "banner": null,
        "premium_tier": 0,
        "premium_subscription_count": 0,
        "preferred_locale": "en-US",
        "public_updates_channel_id": null,
        "max_video_channel_users": 25,
        "max_stage_video_channel_users": 50,
        "nsfw_level": 0,
        "stickers": [],
        "premium_progress_bar_enabled": false,
        "safety_alerts_channel_id": null,
        "incidents_data": null,
    })
}

/// The guild as `GUILD_CREATE` shows it. Members other than the bot come with the intent `GUILD_MEMBERS` only.
pub fn guild_create(world: &World, all_members: bool) -> Value {
    let mut object = guild(world);
    let members = world.people.values().filter(|person| person.member);
    let in_guild = || world.channels.values().filter(|channel| channel.guild.is_some());
    object["joined_at"] = json!(iso8601(world.bot.created_ms()));
    object["large"] = json!(false);
    object["unavailable"] = json!(false);
    object["member_count"] = json!(members.clone().count());
    object["voice_states"] = json!([]);
    object["members"] = members.filter(|person| all_members || person.id == world.bot).map(member).collect();
    object["channels"] =
        in_guild().filter(|it| it.kind != ChannelKind::Thread).map(|it| channel_event(world, it)).collect();
    object["threads"] = in_guild()
        .filter(|it| it.kind == ChannelKind::Thread && !it.archived && world.bot_sees(it))
        .map(|it| channel(world, it))
        .collect();
    object["presences"] = json!([]);
    object["stage_instances"] = json!([]);
    object["guild_scheduled_events"] = json!([]);
    object["soundboard_sounds"] = json!([]);
    object
}

pub fn channel(world: &World, channel: &Channel) -> Value {
    let mut object = json!({
        "id": channel.id,
        "type": channel.kind.number(),
        "last_message_id": channel.last_message,
        "last_pin_timestamp": null,
        "flags": 0,
    });
    let Some(guild) = channel.guild else {
        object["recipients"] = channel.recipients.iter().filter_map(|id| world.people.get(id)).map(user).collect();
        return object;
    };
    object["guild_id"] = json!(guild);
    object["name"] = json!(channel.name);
    object["parent_id"] = json!(channel.parent);
    object["rate_limit_per_user"] = json!(0);
    if channel.kind == ChannelKind::Thread {
        object["owner_id"] = json!(channel.owner);
        object["message_count"] = json!(channel.messages.len().min(50));
        object["total_message_sent"] = json!(channel.messages.len());
        object["member_count"] = json!(2);
        object["thread_metadata"] = json!({
            "archived": channel.archived,
            "auto_archive_duration": 1440,
            "archive_timestamp": iso8601(channel.id.created_ms()),
            "locked": false,
            "create_timestamp": iso8601(channel.id.created_ms()),
        });
        return object;
    }
    object["position"] = json!(channel.position);
    object["topic"] = json!(channel.topic);
    object["nsfw"] = json!(false);
    object["permission_overwrites"] = overwrites(world, channel);
    if channel.kind == ChannelKind::Forum {
        object["available_tags"] = json!([]);
        object["default_reaction_emoji"] = Value::Null;
        object["default_sort_order"] = Value::Null;
        object["default_forum_layout"] = json!(0);
    }
    object
}

/// A channel as the gateway shows it: one that the bot may not view has its name and what else tells of it taken away.
///
/// Sources: Channel Resource, "Obfuscated Channels"; Change Log, "Channel Obfuscation for Users and Bots".
pub fn channel_event(world: &World, channel: &Channel) -> Value {
    let mut object = self::channel(world, channel);
    if channel.guild.is_some() && !world.bot_sees(channel) {
        object["name"] = json!("___hidden___");
        object["flags"] = json!(OBFUSCATED);
        for field in ["topic", "last_message_id"] {
            object[field] = Value::Null;
        }
        let deny = permission::VIEW_CHANNEL.to_string();
        object["permission_overwrites"] = json!([{ "id": world.guild.id, "type": 0, "allow": "0", "deny": deny }]);
    }
    object
}

/// What the bot may not do here, written as a refusal to the bot's own role, so that a client which adds
/// permissions up arrives at what the simulator enforces.
fn overwrites(world: &World, channel: &Channel) -> Value {
    let access = channel.access;
    let refused = [
        (access.view, permission::VIEW_CHANNEL),
        (access.send, permission::SEND_MESSAGES | permission::SEND_MESSAGES_IN_THREADS),
        (access.history, permission::READ_MESSAGE_HISTORY),
    ];
    let deny = refused.iter().filter(|(allowed, _)| !allowed).fold(0, |all, (_, bits)| all | bits);
    let own_role = world.guild.roles.iter().find(|role| role.of_bot == Some(world.bot));
    match own_role {
        Some(role) if deny != 0 => {
            json!([{ "id": role.id, "type": 0, "allow": "0", "deny": deny.to_string() }])
        }
        _ => json!([]),
    }
}

/// A message as REST shows it. The message it replies to is included, one level deep.
pub fn message(world: &World, message: &Message) -> Value {
    let mut object = bare_message(world, message);
    if let Some(id) = message.reply_to {
        // Null says that it was deleted. Source: Message resource, "Message Object", note on `referenced_message`.
        object["referenced_message"] =
            world.message(message.channel, id).map_or(Value::Null, |replied| bare_message(world, replied));
    }
    object
}

fn bare_message(world: &World, message: &Message) -> Value {
    let people = message.mentions.iter().filter_map(|id| world.people.get(id));
    let mut object = json!({
        "id": message.id,
        "channel_id": message.channel,
        "type": if message.reply_to.is_some() { 19 } else { 0 },
        "author": author(world, message),
        "content": message.content,
        "timestamp": iso8601(message.id.created_ms()),
        "edited_timestamp": message.edited_ms.map(iso8601),
        "tts": message.tts,
        "mention_everyone": message.mention_everyone,
        "mentions": people.map(user).collect::<Vec<_>>(),
        "mention_roles": message.mention_roles,
        "attachments": message.attachments,
        "embeds": message.embeds,
        "components": [],
        "pinned": false,
        "flags": message.flags,
    });
    if let Some(id) = message.reply_to {
        let mut reference = Map::new();
        reference.insert("type".to_owned(), json!(0));
        reference.insert("message_id".to_owned(), json!(id));
        reference.insert("channel_id".to_owned(), json!(message.channel));
        if let Some(guild) = message.guild {
            reference.insert("guild_id".to_owned(), json!(guild));
        }
        object["message_reference"] = Value::Object(reference);
    }
    if let Some(nonce) = &message.nonce {
        object["nonce"] = nonce.clone();
    }
    if let Some(webhook) = message.webhook {
        object["webhook_id"] = json!(webhook);
    }
    object
}

fn author(world: &World, message: &Message) -> Value {
    let mut object = world.people.get(&message.author).map_or_else(|| json!({}), user);
    if message.webhook.is_some() {
        object["discriminator"] = json!("0000");
        object["global_name"] = Value::Null;
    }
    object
}

/// A message as `MESSAGE_CREATE` and `MESSAGE_UPDATE` show it: with the guild, the author's membership and that of
/// the mentioned; without its text where the session may not read it.
///
/// Sources: gateway events, "Message Create Extra Fields"; Gateway, "Message Content Intent".
pub fn message_event(world: &World, message: &Message, content_intent: bool) -> Value {
    let mut object = self::message(world, message);
    if let Some(guild) = message.guild {
        object["guild_id"] = json!(guild);
        if let Some(person) = world.people.get(&message.author).filter(|_| message.webhook.is_none()) {
            object["member"] = partial_member(person);
        }
        for mentioned in object["mentions"].as_array_mut().into_iter().flatten() {
            let id = mentioned["id"].as_str().and_then(|id| id.parse::<Snowflake>().ok());
            if let Some(person) = id.and_then(|id| world.people.get(&id)).filter(|person| person.member) {
                mentioned["member"] = partial_member(person);
            }
        }
    }
    if !content_intent {
        veil(world, message, &mut object);
    }
    object
}

/// A message as an application reads it over REST: what the gateway would not show it, REST does not either.
///
/// Source: "You Might Not Need a Privileged Intent", "Message Content Intent".
pub fn message_read(world: &World, message: &Message, content_intent: bool) -> Value {
    let mut object = self::message(world, message);
    if !content_intent {
        veil(world, message, &mut object);
    }
    object
}

/// Takes away what the intent guards.
fn veil(world: &World, message: &Message, object: &mut Value) {
    if !readable_without_intent(world, message) {
        hide_content(object);
    }
    let quoted = message.reply_to.and_then(|id| world.message(message.channel, id));
    if quoted.is_some_and(|quoted| !readable_without_intent(world, quoted)) {
        hide_content(&mut object["referenced_message"]);
    }
}

/// The fields the intent guards. Polls are one more; the simulator has none.
fn hide_content(object: &mut Value) {
    object["content"] = json!("");
    for field in ["embeds", "attachments", "components"] {
        object[field] = json!([]);
    }
}

/// Direct messages, the bot's own messages and those that mention it carry their text without the intent.
///
/// Source: Gateway, "Message Content Intent".
pub fn readable_without_intent(world: &World, message: &Message) -> bool {
    message.guild.is_none() || message.author == world.bot || message.mentions.contains(&world.bot)
}

pub fn application(world: &World, flags: u64) -> Value {
    let name = world.people.get(&world.bot).map_or("", |bot| bot.name.as_str());
    json!({
        "id": world.application,
        "name": name,
        "icon": null,
        "description": "The bot of the simulator",
        "summary": "",
        "rpc_origins": [],
        "bot_public": true,
        "bot_require_code_grant": false,
        "owner": world.people.get(&world.guild.owner).map(user),
        "bot": current_user(world),
        "verify_key": "00".repeat(32),
        "team": null,
        "flags": flags,
        "approximate_guild_count": 1,
        "approximate_user_install_count": 0,
        "redirect_uris": [],
        "interactions_endpoint_url": null,
        "integration_types_config": {},
    })
}
