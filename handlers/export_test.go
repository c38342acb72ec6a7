package handlers

import (
	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
)

// TableRow is a row of the event table, for the tests that play it.
type TableRow struct {
	Key, Source, Name, Reaction string
	Kind                        events.Kind
	Unusable                    bool
	Alert                       alert.Kind
	// Enforces: mode enforce does something else than mode observe.
	Enforces bool
	Refused  finding.Severity
	// Lost is why no sweep tells what a lost event was about, "" where one does.
	Lost string
}

// TableRows is the event table.
func TableRows() []TableRow {
	var all []TableRow
	for _, w := range rows() {
		all = append(all, TableRow{
			Key: w.key(), Source: w.on.source, Name: w.on.name, Reaction: w.reaction.name, Kind: w.on.kind, Unusable: w.on.unusable,
			Alert: w.reaction.alert, Enforces: w.enforce != "", Refused: w.refused, Lost: lost(w),
		})
	}
	return all
}

// KMSPattern is the pattern of the rule for keys.
const KMSPattern = kmsPattern

// GuardPattern is the pattern of the rule for what blinds or bypasses the guard.
func GuardPattern() string { return guardPattern() }
