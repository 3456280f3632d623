//! Makes the one connection to the tier: finds the node, is let in, and sees that it takes writes.
//!
//! Does not know when to try, nor what is asked later.

use redis::Value;

use super::{
    fault::Fault,
    line::{Line, Lines},
    names::Names,
    resolve,
    scripts::Request,
    url::{Address, Endpoint},
};

/// Makes connections to the tier of one address.
#[derive(Debug)]
pub(super) struct Dialer {
    lines: Lines,
    names: Names,
}

impl Dialer {
    pub(super) fn new(address: Address, names: Names) -> Dialer {
        Dialer { lines: Lines::new(address), names }
    }

    /// A connection to the node that takes our writes now. Takes a few seconds at most. Cancel safe.
    pub(super) async fn dial(&self) -> Result<Line, Fault> {
        let candidates = resolve::candidates(&self.lines, self.names.slot()).await?;
        let mut last = Fault::NoMaster;
        for endpoint in &candidates {
            match self.master(endpoint).await {
                Ok(line) => return Ok(line),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn master(&self, endpoint: &Endpoint) -> Result<Line, Fault> {
        let mut line = self.lines.open(endpoint).await?;
        self.lines.log_in(&mut line).await?;
        let database = self.lines.address().database;
        if database != 0 {
            line.ask(redis::cmd("SELECT").arg(database)).await?;
        }
        // A replica that was told to take writes would lose them. Whoever may not ask this must do without.
        match line.ask(&redis::cmd("ROLE")).await {
            Ok(Value::Array(role)) if role.first() != Some(&Value::BulkString(b"master".to_vec())) => {
                return Err(Fault::Replica);
            }
            Ok(_) => {}
            Err(Fault::Refused(code)) if code.is("NOPERM") || !code.is_lasting() => {}
            Err(fault) => return Err(fault),
        }
        // A master that was demoted a moment ago still answers; only a write tells.
        let trial = Request::trial(self.names.fleet()).commands();
        line.ask(&trial.by_text(0)).await?;
        // All questions go by name, which may be forbidden though the text is not. Who keeps no scripts is asked by text each time.
        match line.ask(&trial.by_name(0)).await {
            Err(Fault::Refused(code)) if code.is("NOSCRIPT") => {}
            answer => drop(answer?),
        }
        Ok(line)
    }

    /// Has these certificates vouch for the tier.
    #[cfg(test)]
    pub(super) fn trust_in(&self, tls: std::sync::Arc<rustls::ClientConfig>) {
        self.lines.trust_in(tls);
    }
}
