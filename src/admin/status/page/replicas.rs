//! The replicas that share a tier, each as it says of itself.

use maud::{Markup, html};

use super::numbers::{count, span};
use crate::fleet::Description;

/// Nothing where no replica was heard of.
pub(super) fn replicas(fleet: Option<&Description>) -> Markup {
    let Some(fleet) = fleet.filter(|fleet| !fleet.members.is_empty()) else { return html! {} };
    html! {
        section aria-labelledby="replicas" {
            h2 #replicas { "Replicas" }
            table {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Version" }
                        th.number scope="col" { "Up for" }
                        th.number scope="col" { "Links minted, last second" }
                        th.number scope="col" { "upstream.rate" }
                    }
                }
                tbody {
                    @for member in &fleet.members {
                        tr {
                            th scope="row" { code { (member.id) } @if member.id == fleet.id { " " span.note { "this one" } } }
                            td { (member.version) }
                            td.number { (span(member.age_seconds)) }
                            td.number { (count(member.mints)) }
                            td.number { (member.rate) }
                        }
                    }
                }
            }
            @if let Some(warning) = fleet.warning { p.note { (warning) } }
        }
    }
}
