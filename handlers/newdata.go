package handlers

import (
	"context"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/posture"
)

// newDataReason names a decision about a volume or a database that was made.
type newDataReason string

const (
	newDataFine      newDataReason = "fine"
	newDataOfCluster newDataReason = "of-cluster" // its cluster's encryption is alerted with the cluster
	newDataPlain     newDataReason = "plain"
	newDataForeign   newDataReason = "foreign"
	newDataSwitch    newDataReason = "switch" // volumes were encrypted by default
)

type newDataInput struct {
	encrypted, foreign, ofCluster, switchedOff bool
}

// decideNewData judges what was made by what the event says of it.
func decideNewData(in newDataInput) (newDataReason, finding.Severity) {
	switch {
	case in.switchedOff:
		return newDataSwitch, finding.High
	case in.foreign:
		return newDataForeign, finding.High
	case in.ofCluster:
		return newDataOfCluster, ""
	case !in.encrypted:
		return newDataPlain, finding.Medium
	}
	return newDataFine, ""
}

// newData alerts about volumes and databases that are made without encryption or under a
// key of somebody else, and of the switch that lets volumes be so.
func newData(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	var in newDataInput
	var what string
	again := "Create it again with encryption before there is data in it."
	switch d := c.Event.Detail.(type) {
	case events.Volume:
		what, in = "volume "+reaction.OrUnknown(d.ID), newDataInput{encrypted: d.Encrypted, foreign: c.Config.Posture.IsForeign(d.Key)}
	case events.Database:
		cluster := c.Event.Name == "CreateDBCluster"
		in = newDataInput{encrypted: d.Encrypted, foreign: c.Config.Posture.IsForeign(d.Key), ofCluster: !cluster && d.Cluster != ""}
		what = "database " + reaction.OrUnknown(d.Name)
		if cluster {
			what = "database cluster " + reaction.OrUnknown(d.Cluster)
		}
		again += " Later, encryption takes a snapshot that is copied with a key and restored."
	case events.DisableEbsEncryptionByDefault:
		in.switchedOff = true
	default:
		return nil, fmt.Errorf("%s has details of another event: %T", c.Event.Name, d)
	}
	reason, severity := decideNewData(in)
	c.Debug(ctx, "new data decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	d := &reaction.Decision{}
	if reason == newDataPlain {
		c.Await(ctx, "who made it")
		// An actor who makes such things makes many of them.
		if d.Once = c.OnceAnHour("plain/" + c.Event.Name); c.ToldThisHour(d.Once) {
			return nil, nil
		}
	}
	d.Tell = func() []alert.Alert {
		a := c.NewAlert(alert.KindEncryption, "")
		a.Severity = severity
		a.Summary = fmt.Sprintf("%s called %s. This is from the event; the current setting was not read.", c.Who(), c.Event.Name)
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change volumes and databases."}
		enable := command.Line("aws ec2 enable-ebs-encryption-by-default --region %s", c.InRegion())
		switch reason {
		case newDataSwitch:
			a.Dangers, a.Title = []string{posture.DangerEBS}, "New EBS volumes are no longer encrypted by default"
			a.Risk = "Every new volume is stored in plain text unless its creator asks for encryption."
			a.Next = []string{"If this is not intended:", enable}
		case newDataForeign:
			a.Title = "New " + what + " is encrypted under a key of another account"
			a.Risk = "The other account can disable or delete the key at any time, and the data with it."
			a.Next = []string{"Find out whose key it is. Encryption cannot be changed in place: copy the data under a key of yours."}
		case newDataPlain:
			a.ID = d.Once
			a.Title = "New " + what + " is not encrypted"
			a.Summary += " Further cases by the same actor within the hour are not alerted."
			a.Risk = "Its data and its snapshots are stored in plain text, and cannot be encrypted in place."
			a.Next = []string{again, "To make encryption the default for volumes:", enable}
		case newDataFine, newDataOfCluster:
		}
		return []alert.Alert{a}
	}
	return d, nil
}
