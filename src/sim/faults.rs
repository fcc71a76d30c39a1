//! Ways to make the simulator misbehave as Discord does on a bad day.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// When a gateway fault strikes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At once, to every connection; nothing is remembered.
    #[default]
    Now,
    /// When the next client connects, before HELLO.
    Connect,
    /// In place of READY.
    Identify,
    /// In place of RESUMED.
    Resume,
}

/// Who a 429 says it is about. Source: Rate Limits, "Header Format".
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    User,
    Global,
    Shared,
}

/// One kind of trouble. `route` is a method and a prefix of the path below `/api/v10`, as in `GET /gateway/bot` or
/// `POST /channels/`; without it every route is meant.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The gateway closes with a code.
    Close {
        code: u16,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        when: When,
    },
    /// Op 7.
    Reconnect {
        #[serde(default)]
        when: When,
    },
    /// Op 9. With `resumable: false` the session is forgotten.
    InvalidSession {
        #[serde(default)]
        resumable: bool,
        #[serde(default)]
        when: When,
    },
    /// The TCP connection ends with no close frame.
    Cut {
        #[serde(default)]
        when: When,
    },
    /// Op 1: a heartbeat is asked for.
    RequestHeartbeat {},
    /// Heartbeats are not acknowledged.
    NoAck {},
    /// New connections to the gateway are cut before the WebSocket handshake ends.
    RefuseConnections {},
    /// Every connection is cut, and new ones are refused.
    GatewayOff {},
    NoHello {},
    NoReady {},
    SlowReady {
        ms: u64,
    },
    /// A status in place of the answer; 429 comes with its headers and `retry_after` seconds (1 when left out).
    Rest {
        #[serde(default)]
        route: Option<String>,
        status: u16,
        #[serde(default)]
        retry_after: Option<f64>,
        #[serde(default)]
        scope: Scope,
    },
    /// The request is handled after a while.
    RestDelay {
        #[serde(default)]
        route: Option<String>,
        ms: u64,
    },
    /// The request is handled at once, and answered after a while.
    RestLate {
        #[serde(default)]
        route: Option<String>,
        ms: u64,
    },
    /// The request is never answered and not handled.
    RestHang {
        #[serde(default)]
        route: Option<String>,
    },
    /// The request is handled, and the connection ends in the middle of the answer.
    RestCut {
        #[serde(default)]
        route: Option<String>,
    },
    /// The request is handled, and the answer is not JSON.
    RestGarbage {
        #[serde(default)]
        route: Option<String>,
    },
}

impl Fault {
    /// When it strikes, if it is a fault of the gateway with a choice.
    #[must_use]
    pub fn when(&self) -> Option<When> {
        match self {
            Self::Close { when, .. }
            | Self::Reconnect { when }
            | Self::InvalidSession { when, .. }
            | Self::Cut { when } => Some(*when),
            Self::RequestHeartbeat {} => Some(When::Now),
            _ => None,
        }
    }

    /// Whether this is a REST fault that means a request.
    #[must_use]
    pub fn means(&self, method: &str, path: &str) -> bool {
        let (Self::Rest { route, .. }
        | Self::RestDelay { route, .. }
        | Self::RestLate { route, .. }
        | Self::RestHang { route }
        | Self::RestCut { route }
        | Self::RestGarbage { route }) = self
        else {
            return false;
        };
        let Some(route) = route else { return true };
        let (wanted_method, prefix) = route.split_once(' ').unwrap_or(("*", route));
        (wanted_method == "*" || wanted_method.eq_ignore_ascii_case(method)) && path.starts_with(prefix)
    }

    fn mistake(&self) -> Option<String> {
        match self {
            Self::Close { code, .. } if !(1000..5000).contains(code) => {
                Some(format!("code {code} is no WebSocket close code (1000 to 4999)"))
            }
            Self::Rest { status, .. } if !(400..600).contains(status) => {
                Some(format!("status {status} is no error status (400 to 599)"))
            }
            Self::Rest { retry_after: Some(seconds), .. } if !(0.0..=86_400.0).contains(seconds) => {
                Some(format!("retry_after {seconds} is not between 0 and 86400 seconds"))
            }
            Self::Rest { route: Some(route), .. }
            | Self::RestDelay { route: Some(route), .. }
            | Self::RestLate { route: Some(route), .. }
            | Self::RestHang { route: Some(route) }
            | Self::RestCut { route: Some(route) }
            | Self::RestGarbage { route: Some(route) }
                if !route.contains('/') || route.contains("/api/") =>
            {
                Some(format!("route {route:?} is not METHOD /path below /api/v10, as in \"GET /gateway/bot\""))
            }
            _ => None,
        }
    }
}

/// A fault, how often it strikes (always, when `times` is left out), and how many occasions it lets pass first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Order {
    #[serde(flatten)]
    pub fault: Fault,
    pub times: Option<u32>,
    pub after: u32,
}

impl Order {
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(mut value: Value) -> Result<Self, String> {
        let fields = value.as_object_mut().ok_or("a fault is an object, as in {\"fault\":\"cut\"}")?;
        let mut number = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .map(Some)
                .ok_or(format!("{name} is not a whole number")),
        };
        let (times, after) = (number("times")?, number("after")?.unwrap_or(0));
        if times == Some(0) {
            return Err("times is 0, so that the fault never strikes".to_owned());
        }
        let fault: Fault = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Self { fault, times, after }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        match self.fault.mistake() {
            Some(mistake) => Err(mistake),
            None => Ok(self),
        }
    }
}

impl From<Fault> for Order {
    fn from(fault: Fault) -> Self {
        Self { fault, times: None, after: 0 }
    }
}

impl Fault {
    /// This fault, as often as said.
    #[must_use]
    pub fn times(self, times: u32) -> Order {
        Order { fault: self, times: Some(times), after: 0 }
    }
}

/// The faults in force, in the order they were set.
#[derive(Default)]
pub struct Faults {
    orders: Vec<(u64, Order)>,
    set: u64,
}

impl Faults {
    pub fn set(&mut self, order: Order) -> u64 {
        self.set += 1;
        self.orders.push((self.set, order));
        self.set
    }

    pub fn clear(&mut self) {
        self.orders.clear();
    }

    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.orders.len();
        self.orders.retain(|(kept, _)| *kept != id);
        self.orders.len() != before
    }

    /// The first fault that `wanted` picks something from, used up by one. A fault that lets this occasion pass does
    /// not hide the ones behind it.
    pub fn strike<T>(&mut self, wanted: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        for (id, order) in &mut self.orders {
            let Some(picked) = wanted(&order.fault) else { continue };
            if order.after > 0 {
                order.after -= 1;
                continue;
            }
            if let Some(times) = &mut order.times {
                *times -= 1;
                if *times == 0 {
                    let spent = *id;
                    self.remove(spent);
                }
            }
            return Some(picked);
        }
        None
    }

    pub fn list(&self) -> Vec<Value> {
        let shown = |(id, order): &(u64, Order)| {
            let mut object = serde_json::to_value(order).unwrap_or_default();
            object["id"] = Value::from(*id);
            object
        };
        self.orders.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fault_strikes_after_and_as_often_as_told() {
        let mut faults = Faults::default();
        let order = json!({"fault": "rest", "route": "GET /gateway/bot", "status": 502, "times": 2, "after": 1});
        faults.set(Order::parse(order).unwrap());
        let mut ask = |path| faults.strike(|fault| fault.means("GET", path).then_some(()));
        assert_eq!(ask("/users/@me"), None);
        assert_eq!([(); 4].map(|()| ask("/gateway/bot").is_some()), [false, true, true, false]);
    }

    #[test]
    fn mistakes_are_named() {
        let mistake = |value| Order::parse(value).unwrap_err();
        assert!(mistake(json!({"fault": "cut", "wen": "now"})).contains("unknown field `wen`"));
        assert!(mistake(json!({"fault": "no_ack", "when": "now"})).contains("unknown field `when`"));
        assert!(mistake(json!({"fault": "explode"})).contains("unknown variant `explode`"));
        assert!(mistake(json!({"fault": "close", "code": 99})).contains("99"));
        assert!(mistake(json!({"fault": "rest", "status": 200})).contains("200"));
        assert!(mistake(json!({"fault": "rest", "status": 500, "route": "gateway"})).contains("METHOD"));
        assert!(mistake(json!({"fault": "cut", "times": 0})).contains("never"));
        assert!(mistake(json!([])).contains("object"));
    }
}
