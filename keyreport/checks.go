package keyreport

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/posture"
)

// Status is what a check came to.
type Status string

// The statuses.
const (
	Pass       Status = "pass"        // all that it is about was read and is as it should be
	Fail       Status = "fail"        // something is not
	NotChecked Status = "not checked" // nothing, or not all of it, was looked at, or there is nothing that it is about
)

// CheckID names a check.
type CheckID string

// The checks. The first of them are those of AWS Security Hub, under its names.
const (
	checkIAMManaged CheckID = "KMS.1"
	checkIAMInline  CheckID = "KMS.2"
	checkDeletion   CheckID = "KMS.3"
	checkRotation   CheckID = "KMS.4"
	checkPublic     CheckID = "KMS.5"
	checkBuckets    CheckID = "S3.17"
	checkTrail      CheckID = "CloudTrail.2"
	checkEBS        CheckID = "EC2.7"
	checkOutside    CheckID = "outside"  // ours: nobody outside the account and those it trusts
	checkWatched    CheckID = "watched"  // ours: keys are looked at regularly
	checkRepaired   CheckID = "repaired" // ours: what is changed is put back
)

// Check is something that was checked.
type Check struct {
	ID       CheckID          `json:"id"`
	Title    string           `json:"title"`
	How      string           `json:"how"`
	Severity finding.Severity `json:"severity"`
	Fix      string           `json:"fix"`
	Status   Status           `json:"status"`
	// Summary says in a sentence what it came to.
	Summary string `json:"summary"`
	// Passed and Failed are how many resources did, NotKnown how many could not be read,
	// and NotConcerned how many it is not about.
	Passed       int `json:"passed"`
	Failed       int `json:"failed"`
	NotKnown     int `json:"not_known"`
	NotConcerned int `json:"not_concerned"`
	// From and Until are when the resources were read.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Evidence is one entry for each resource that it is about.
	Evidence []Evidence `json:"evidence"`
}

// Evidence is what a check found in one resource.
type Evidence struct {
	Resource string    `json:"resource"`
	Type     string    `json:"type"`
	Name     string    `json:"name,omitempty"`
	Status   Status    `json:"status"`
	What     string    `json:"what"`
	At       time.Time `json:"read_at,omitzero"`
	How      string    `json:"how"`
	// Exempt is the exemption that covers it, "" for none. It fails all the same.
	Exempt string `json:"exempt,omitempty"`
}

// verdict is what a check says of a key.
type verdict struct {
	status Status // "" if it is not about the key
	what   string
	read   keylist.Read
	how    string
	exempt string
}

// unknown is the verdict on what could not be read.
func unknown(r keylist.Read, how string) verdict {
	return verdict{status: NotChecked, what: "not known: " + r.NotKnown, read: r, how: how}
}

// definition says what a check is. Either of says what it makes of a key, or whole what it
// makes of all that the report has.
type definition struct {
	id              CheckID
	title, how, fix string
	severity        finding.Severity
	of              func(keylist.Key) verdict
	whole           func(Report, *Check)
}

// definitions are the checks in the order of the report.
var definitions = []definition{
	{
		checkRotation, "Customer managed keys rotate", "KMS GetKeyRotationStatus of every customer managed key that KMS can rotate", "aws kms enable-key-rotation, or CMKEEPER_ROTATION_MODE=enforce",
		finding.Medium, rotates, nil,
	},
	{
		checkDeletion, "No customer managed key is about to be deleted", "KMS DescribeKey of every customer managed key", "aws kms cancel-key-deletion, unless the deletion is meant",
		finding.Critical, notDying, nil,
	},
	{
		checkPublic, "No key policy lets everybody in", "KMS GetKeyPolicy of every customer managed key, read as docs/policy.md says", "name the accounts or roles that need the key in Principal",
		finding.Critical, notPublic, nil,
	},
	{
		checkOutside, "No principal of an account that is not trusted may use a key", "KMS GetKeyPolicy and ListGrants of every customer managed key", "remove the statement or revoke the grant, or trust the account (CMKEEPER_TRUSTED_ACCOUNTS)",
		finding.High, notOutside, nil,
	},
	{
		checkBuckets, "Buckets encrypt with KMS keys by default", "S3 GetBucketEncryption of every bucket of this Region", "aws s3api put-bucket-encryption with SSE-KMS",
		finding.Medium, nil, underKMS,
	},
	{
		checkWatched, "The keys are looked at regularly", "the records of the fleet's sweeps in its state bucket", "see docs/operations.md: the worker has to run, and the schedule to ask for sweeps",
		finding.High, nil, watched,
	},
	{
		checkRepaired, "Settings that were changed are put back", "the fleet's documents about keys in its state bucket", "CMKEEPER_ROTATION_MODE, POLICY_MODE and DELETION_MODE=enforce",
		finding.Medium, nil, repaired,
	},
	notLookedAt(checkIAMManaged, "IAM customer managed policies do not allow decryption with all keys", iamUnread),
	notLookedAt(checkIAMInline, "Inline policies of IAM principals do not allow decryption with all keys", iamUnread),
	{
		checkTrail, "CloudTrail encrypts log files with a KMS key", "CloudTrail DescribeTrails: every trail that covers this Region", "aws cloudtrail update-trail --kms-key-id",
		finding.Medium, nil, trailsEncrypted,
	},
	{
		checkEBS, "EBS encrypts new volumes by default", "EC2 GetEbsEncryptionByDefault in this Region", "aws ec2 enable-ebs-encryption-by-default",
		finding.Medium, nil, ebs,
	},
}

// iamUnread is why what IAM policies allow is not checked.
const iamUnread = "cmkeeper does not read IAM policies: the check needs iam:GetAccountAuthorizationDetails, and every policy of the account judged for kms:Decrypt and kms:ReEncryptFrom on all keys"

// notLookedAt is a check that is named because frameworks ask for it. Security Hub calls
// all of them medium.
func notLookedAt(id CheckID, title, why string) definition {
	return definition{
		id: id, title: title, how: why, severity: finding.Medium, fix: "see the control in AWS Security Hub",
		whole: func(_ Report, c *Check) { c.Status, c.Summary = NotChecked, why+"." },
	}
}

func runChecks(r Report) []Check {
	var all []Check
	for _, d := range definitions {
		c := Check{ID: d.id, Title: d.title, How: d.how, Severity: d.severity, Fix: d.fix, Evidence: []Evidence{}}
		if d.whole != nil {
			d.whole(r, &c)
		} else {
			c.keys(r.Keys.Keys, d.of)
		}
		all = append(all, c)
	}
	return all
}

// keys checks every key that AWS does not manage.
func (c *Check) keys(keys []keylist.Key, of func(keylist.Key) verdict) {
	for _, k := range keys {
		if k.Manager == "AWS" {
			continue
		}
		v := of(k)
		name := ""
		if len(k.Aliases) > 0 {
			name = k.Aliases[0]
		}
		c.add(Evidence{Resource: k.ARN, Type: "AWS::KMS::Key", Name: name, Status: v.status, What: v.what, At: v.read.At, How: v.how, Exempt: v.exempt})
	}
	c.conclude("customer managed key", "customer managed keys")
}

// add counts a resource; one that the check is not about has no status.
func (c *Check) add(e Evidence) {
	switch e.Status {
	case Pass:
		c.Passed++
	case Fail:
		c.Failed++
	case NotChecked:
		c.NotKnown++
	default:
		c.NotConcerned++
		return
	}
	if c.From.IsZero() || !e.At.IsZero() && e.At.Before(c.From) {
		c.From = e.At
	}
	if e.At.After(c.Until) {
		c.Until = e.At
	}
	c.Evidence = append(c.Evidence, e)
}

// conclude says what the check came to from what was counted.
func (c *Check) conclude(one, many string) {
	of := c.Passed + c.Failed + c.NotKnown
	noun := many
	if of == 1 {
		noun = one
	}
	switch {
	case c.Failed > 0:
		c.Status = Fail
		c.Summary = fmt.Sprintf("%d of %d %s fail.", c.Failed, of, noun)
	case c.NotKnown > 0:
		c.Status = NotChecked
		c.Summary = fmt.Sprintf("%d of %d %s could not be read; the others pass.", c.NotKnown, of, noun)
	case c.Passed == 0:
		c.Status = NotChecked
		c.Summary = fmt.Sprintf("There are no %s that this is about.", many)
		return
	default:
		c.Status = Pass
		c.Summary = fmt.Sprintf("%d of %d %s pass.", c.Passed, of, noun)
	}
	if c.Failed > 0 && c.NotKnown > 0 {
		c.Summary += fmt.Sprintf(" %d could not be read.", c.NotKnown)
	}
	if c.NotConcerned > 0 {
		c.Summary += fmt.Sprintf(" It is not about %d others.", c.NotConcerned)
	}
	slices.SortStableFunc(c.Evidence, func(a, b Evidence) int { return rankOf(a.Status) - rankOf(b.Status) })
}

func rankOf(s Status) int { return slices.Index([]Status{Fail, NotChecked, Pass}, s) }

// exempted is the exemption of a key's dangers of one name, "" if one of them has none.
func exempted(k keylist.Key, dangerName string) string {
	exempt := ""
	for _, d := range k.Dangers {
		if name, _, _ := strings.Cut(d.Name, "/"); name != dangerName {
			continue
		}
		if exempt = d.Exempt; exempt == "" {
			return ""
		}
	}
	return exempt
}

func rotates(k keylist.Key) verdict {
	const how = "KMS GetKeyRotationStatus"
	r := k.Rotation
	switch {
	case !k.Described.Known():
		return unknown(k.Described, "KMS DescribeKey")
	case r.Blocker != "":
		return verdict{}
	case r.Enabled == nil:
		return unknown(r.Read, how)
	case *r.Enabled:
		what := fmt.Sprintf("rotates every %d days", r.PeriodDays)
		if r.Last != nil {
			what += ", last on " + day(*r.Last)
		}
		return verdict{status: Pass, what: what, read: r.Read, how: how}
	}
	return verdict{status: Fail, what: "does not rotate", read: r.Read, how: how, exempt: exempted(k, posture.DangerRotation)}
}

func notDying(k keylist.Key) verdict {
	const how = "KMS DescribeKey"
	switch {
	case !k.Described.Known():
		return unknown(k.Described, how)
	case k.State != "PendingDeletion" && k.State != "PendingReplicaDeletion":
		return verdict{status: Pass, what: "is " + k.State, read: k.Described, how: how}
	}
	what := "will be deleted"
	if k.DeletionDate != nil {
		what += " on " + day(*k.DeletionDate)
	}
	switch {
	case k.DeletionApproved:
		what += "; the deletion was approved"
	case k.ApprovalNotKnown != "":
		what += "; whether that was approved is not known: " + k.ApprovalNotKnown
	}
	return verdict{status: Fail, what: what, read: k.Described, how: how, exempt: exempted(k, posture.DangerDeletion)}
}

func notPublic(k keylist.Key) verdict {
	const how = "KMS GetKeyPolicy"
	if !k.Policy.Known() {
		return unknown(k.Policy.Read, how)
	}
	for _, f := range k.Policy.Findings {
		switch f.ID {
		case finding.PublicPrincipal, finding.PublicThroughService, finding.AllowNotPrincipal:
			if f.Exposes() {
				return verdict{status: Fail, what: f.Message, read: k.Policy.Read, how: how, exempt: exempted(k, posture.DangerPolicy)}
			}
		case finding.NotUnderstood:
			return verdict{status: NotChecked, what: "not known: " + f.Message, read: k.Policy.Read, how: how}
		}
	}
	return verdict{status: Pass, what: "the policy lets in nobody without naming whom", read: k.Policy.Read, how: how}
}

func notOutside(k keylist.Key) verdict {
	const how = "KMS GetKeyPolicy and ListGrants"
	for _, d := range k.Dangers {
		for _, f := range d.Findings {
			if f.Exposes() {
				read := k.Policy.Read
				if f.ID == finding.GrantToForeignAccount {
					read = k.Grants.Read
				}
				return verdict{status: Fail, what: f.Message, read: read, how: how, exempt: d.Exempt}
			}
		}
	}
	switch {
	case !k.Policy.Known():
		return unknown(k.Policy.Read, how)
	case !k.Grants.Known():
		return unknown(k.Grants.Read, how)
	case slices.ContainsFunc(k.Policy.Findings, func(f finding.Finding) bool { return f.ID == finding.NotUnderstood }):
		return verdict{status: NotChecked, what: "not known: the policy cannot be parsed", read: k.Policy.Read, how: how}
	}
	return verdict{status: Pass, what: fmt.Sprintf("neither the policy nor one of %d grants lets in an account that is not trusted", k.Grants.Count), read: k.Policy.Read, how: how}
}

func underKMS(r Report, c *Check) {
	const how = "S3 GetBucketEncryption"
	for _, b := range r.Keys.Buckets {
		e := Evidence{Resource: "arn:aws:s3:::" + b.Name, Type: "AWS::S3::Bucket", Name: b.Name, Status: Fail, What: "encrypts with keys of S3 by default", At: b.At, How: how}
		if b.KMS {
			e.Status, e.What = Pass, "encrypts under the AWS managed key by default"
			if b.Key != "" {
				e.What = "encrypts under " + b.Key + " by default"
			}
		}
		c.add(e)
	}
	c.conclude("bucket", "buckets")
	for _, why := range r.Keys.NotKnown {
		if what, ok := strings.CutPrefix(why, "buckets: "); ok {
			c.Summary += " Not all buckets could be read: " + what
			if c.Status == Pass {
				c.Status = NotChecked
			}
		}
	}
}

func ebs(r Report, c *Check) {
	e := Evidence{Resource: "AWS::::Account:" + r.Keys.Account, Type: "AWS::::Account", Status: Fail, What: "does not encrypt new volumes by default", At: r.EBS.At, How: "EC2 GetEbsEncryptionByDefault"}
	switch {
	case !r.EBS.Known():
		e.Status, e.What = NotChecked, "not known: "+cmp.Or(r.EBS.NotKnown, keylist.NotAsked)
	case r.EBS.On:
		e.Status, e.What = Pass, "encrypts new volumes by default"
	}
	c.add(e)
	c.conclude("account", "accounts")
}

// trailsEncrypted is Security Hub's CloudTrail.2: a trail fails that has no KmsKeyId. What
// another account shows of its organization trail may lack it.
func trailsEncrypted(r Report, c *Check) {
	const how = "CloudTrail DescribeTrails"
	if !r.Trails.Known() {
		c.add(Evidence{Resource: "AWS::::Account:" + r.Keys.Account, Type: "AWS::::Account", Status: NotChecked, What: "trails not known: " + cmp.Or(r.Trails.NotKnown, keylist.NotAsked), At: r.Trails.At, How: how})
		c.conclude("account", "accounts")
		return
	}
	for _, t := range r.Trails.All {
		e := Evidence{Resource: t.ARN, Type: "AWS::CloudTrail::Trail", Name: t.Name, Status: Fail, What: "encrypts its log files with keys of S3", At: r.Trails.At, How: how}
		switch {
		case t.Key != "":
			e.Status, e.What = Pass, "encrypts its log files under "+t.Key
		case arn.Account(t.ARN) != r.Keys.Account:
			e.Status, e.What = NotChecked, "not known: the trail is of another account, and no key is shown"
		}
		c.add(e)
	}
	c.conclude("trail", "trails")
}

// longestSweep is how long a sweep may take: the last one is not older than two of the
// times between sweeps, and this.
const longestSweep = time.Hour

func watched(r Report, c *Check) {
	sweeps := r.History.Sweeps
	switch {
	case r.History.SweepsNotKnown != "":
		c.Status, c.Summary = NotChecked, "Not known: "+r.History.SweepsNotKnown
		return
	case len(sweeps) == 0:
		c.Status, c.Summary = NotChecked, "There is no record of a sweep."
		return
	}
	c.From, c.Until = sweeps[0].Began, sweeps[len(sweeps)-1].Ended
	last := sweeps[len(sweeps)-1]
	for _, s := range sweeps {
		if s.Whole {
			c.Passed++
		} else {
			c.Failed++
		}
	}
	said := fmt.Sprintf("%d sweeps are on record, of which %d were not whole.", len(sweeps), c.Failed)
	switch age := r.Made.Sub(last.Ended); {
	case age > 2*time.Duration(r.SweepSeconds)*time.Second+longestSweep:
		c.Status, c.Summary = Fail, fmt.Sprintf("The last sweep on record ended %s before this report. %s", age.Round(time.Minute), said)
	case !last.Whole:
		c.Status, c.Summary = Fail, "The last sweep was not whole. "+said
	case last.Unread > 0:
		c.Status, c.Summary = NotChecked, fmt.Sprintf("The last sweep could not read everything (%d). %s", last.Unread, said)
	default:
		c.Status, c.Summary = Pass, fmt.Sprintf("The last sweep, at %s, looked at %d keys. %s", stamp(last.Ended), last.Keys, said)
	}
}

func repaired(r Report, c *Check) {
	h := r.History
	switch {
	case h.RecordsNotKnown != "":
		c.Status, c.Summary = NotChecked, "Not known: "+h.RecordsNotKnown
	case len(h.Stopped) > 0:
		c.Status, c.Failed = Fail, len(h.Stopped)
		c.Summary = fmt.Sprintf("Putting back was stopped %d times, because somebody undid it again and again.", len(h.Stopped))
	case h.Repairs.Count == 0:
		c.Status, c.Summary = NotChecked, "No repair is on record, so there is nothing to judge by."
	default:
		c.Status, c.Passed = Pass, h.Repairs.Count
		c.Summary = h.Repairs.text()
	}
}

// text says how long repairs took.
func (r Repairs) text() string {
	s := fmt.Sprintf("%d settings were put back.", r.Count)
	if r.Measured == 0 {
		return s + " How long that took is not on record."
	}
	return s + fmt.Sprintf(" From the event to the repair it took %s on average, at most %s (%d measured, of which %d by what the event's message says).", seconds(r.Mean), seconds(r.Longest), r.Measured, r.Unconfirmed)
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second / 10).String()
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return "not known"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
