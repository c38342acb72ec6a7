package handlers

import (
	"context"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
)

// newDataReason names a decision about a volume or a database that was made.
type newDataReason string

const (
	newDataFine      newDataReason = "fine"
	newDataOfCluster newDataReason = "of-cluster" // its cluster's encryption is told with the cluster
	newDataPlain     newDataReason = "plain"
	newDataForeign   newDataReason = "foreign"
	newDataSwitch    newDataReason = "switch" // volumes were encrypted by default
)

type newDataInput struct {
	encrypted, foreign, ofCluster, switchedOff bool
}

// decideNewData judges what was made by what the event says of it.
func decideNewData(in newDataInput) (newDataReason, alert.Severity) {
	switch {
	case in.switchedOff:
		return newDataSwitch, alert.High
	case in.foreign:
		return newDataForeign, alert.High
	case in.ofCluster:
		return newDataOfCluster, ""
	case !in.encrypted:
		return newDataPlain, alert.Medium
	}
	return newDataFine, ""
}

// newData tells of volumes and databases that are made without encryption or
// under a key of somebody else, and of the switch that lets volumes be so.
func (r *Router) newData(ctx context.Context, e events.Event) error {
	var in newDataInput
	var what string
	again := "Make it again with encryption before there is data in it."
	switch d := e.Detail.(type) {
	case events.Volume:
		what, in = "volume "+orUnknown(d.ID), newDataInput{encrypted: d.Encrypted, foreign: r.isForeignKey(d.Key)}
	case events.Database:
		cluster := e.Name == "CreateDBCluster"
		in = newDataInput{encrypted: d.Encrypted, foreign: r.isForeignKey(d.Key), ofCluster: !cluster && d.Cluster != ""}
		what = "database " + orUnknown(d.Name)
		if cluster {
			what = "database cluster " + orUnknown(d.Cluster)
		}
		again += " Later it takes a snapshot that is copied with a key and restored."
	default: // DisableEbsEncryptionByDefault has no parameters
		in.switchedOff = true
	}
	reason, severity := decideNewData(in)
	r.log.DebugContext(ctx, "new data decided", "event", e.Name, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a := r.newAlert(e, alert.KindEncryption, "")
	if reason == newDataPlain {
		// Whoever makes such things makes many of them.
		a.ID = onceAnHour(e, "plain/"+e.Name)
		if r.told.has(hourOf(e.Time), a.ID) {
			return nil
		}
	}
	a.Severity = severity
	a.Summary = fmt.Sprintf("%s called %s. This is what the event says; how it is now was not read.", who(e), e.Name)
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change volumes and databases."}
	enable := "aws ec2 enable-ebs-encryption-by-default --region " + shellQuote(r.config.Region)
	switch reason {
	case newDataSwitch:
		a.Title = "Volumes are no longer encrypted by default"
		a.Risk = "Every volume that is made from now on without asking for encryption is stored in plain text."
		a.Next = []string{"If this is not meant:", enable}
	case newDataForeign:
		a.Title = "New " + what + " is under a key of another account"
		a.Risk = "The other account can take the key away, and the data with it."
		a.Next = []string{"Find out whose key it is. Encryption cannot be changed in place: copy the data under a key of yours."}
	case newDataPlain:
		a.Title = "New " + what + " is not encrypted"
		a.Summary += " More of the same by the same actor within the hour is not told by itself."
		a.Risk = "Its data and its snapshots are stored in plain text, and cannot be encrypted in place."
		a.Next = []string{again, "So that volumes cannot be made so by mistake:", enable}
	case newDataFine, newDataOfCluster:
	}
	if reason == newDataPlain {
		return r.publishOnce(ctx, e, a)
	}
	return r.publish(ctx, a)
}
