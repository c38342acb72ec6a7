package handlers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// defaultReason names a decision about the encryption of new data.
type defaultReason string

const (
	defaultKept    defaultReason = "kept"    // it is as it should be, or as it was
	defaultNew     defaultReason = "new"     // nothing is known to compare it with
	defaultForeign defaultReason = "foreign" // the key belongs to an account that is not trusted
	defaultAstray  defaultReason = "astray"  // it is not under the key of the alias that the bucket is tagged with
	defaultLeft    defaultReason = "left"    // it left the key that it had
	defaultNone    defaultReason = "none"    // it had a key, and has none now
)

type defaultInput struct {
	// key is the live default key and former the one before, as ledger.Bucket has
	// them; known says that there is one to compare with.
	key, former string
	known       bool
	// required are the keys of the aliases that the bucket is tagged with, and
	// earlier those that they had before: what is under them moves with the alias.
	required, earlier []string
	foreign           bool
}

// decideDefault judges the default encryption of a bucket after it was set.
func decideDefault(in defaultInput) (defaultReason, finding.Severity) {
	switch {
	case in.foreign:
		return defaultForeign, finding.Critical
	case len(in.required) > 0 && !slices.Contains(in.required, in.key) && !slices.Contains(in.earlier, in.key):
		return defaultAstray, finding.High
	case len(in.required) > 0, in.known && in.key == in.former:
		return defaultKept, ""
	case !in.known:
		return defaultNew, ""
	case in.former == "":
		return defaultKept, "" // it has a key of its own now
	case in.key == "":
		return defaultNone, finding.High
	}
	return defaultLeft, finding.Medium
}

// bucketCase is a bucket as it was read, and what is alerted about it.
type bucketCase struct {
	*reaction.Case
	inventory.Bucket
	denies *bool          // whether its policy denies uploads for their encryption; nil: not read
	former *ledger.Bucket // as it was last read
	unread bool           // only the event says how it is: that is told, and not noted
	in     defaultInput
	reason defaultReason
	// severity of what reason says is wrong, "" for nothing. What is different from the last
	// read: changed, the default encryption; follows, the tag; opened, the policy.
	severity                 finding.Severity
	changed, follows, opened bool
	// goneTold are the alerts that told that an alias was deleted, by its name.
	goneTold map[string]string
	// sets and tags say that the event set the default encryption, or the tags.
	sets, tags bool
}

// bucketName is the bucket that an event is about, "" for none.
func bucketName(e events.Event) string {
	switch d := e.Detail.(type) {
	case events.BucketEncryption:
		return d.Bucket
	case events.BucketPolicy:
		return d.Bucket
	case events.BucketTags:
		return d.Bucket
	}
	return ""
}

// skipNoBucket says why an event is about no bucket that is read here, or "".
func skipNoBucket(c *reaction.Case) string {
	if bucketName(c.Event) == "" {
		return "it names no bucket"
	}
	return skipElsewhere(c)
}

// bucketOf reads the bucket that an event is about. nil: it was deleted since, or it may
// not be read and the event says nothing of its encryption.
func bucketOf(ctx context.Context, c *reaction.Case) (*bucketCase, error) {
	b, err := c.Facts.Bucket(ctx, bucketName(c.Event))
	d, set := c.Event.Detail.(events.BucketEncryption)
	switch {
	case errors.Is(err, inventory.ErrAccessDenied) && set:
		// What was sent is all that there is to judge.
		c.Log().WarnContext(ctx, "bucket cannot be read, so its encryption is judged by the event", "error", err)
		return &bucketCase{Case: c, unread: true, Bucket: inventory.Bucket{Name: d.Bucket, DefaultKey: d.Key}}, nil
	case reaction.Unreadable(err):
		c.Log().InfoContext(ctx, "event ignored", "reason", "its bucket cannot be read", "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &bucketCase{Case: c, Bucket: b}, nil
}

// bucketSettings alerts when a bucket's default encryption leaves the key that it should
// have, and when the bucket follows other aliases. It is judged as it is read now.
func bucketSettings(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	b, err := bucketOf(ctx, c)
	if b == nil || err != nil {
		return nil, err
	}
	return b.judge(ctx)
}

// bucketPolicy alerts when a bucket's policy no longer denies uploads for their
// encryption.
func bucketPolicy(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	b, err := bucketOf(ctx, c)
	if b == nil || err != nil {
		return nil, err
	}
	b.readPolicy(ctx)
	return b.judge(ctx)
}

// sweptBucket judges a bucket whose settings for new objects are others than when they
// were last read, and notes it, so that an event has something to be compared with.
func sweptBucket(b inventory.Bucket) func(context.Context, *reaction.Case) (*reaction.Decision, error) {
	return func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		swept := &bucketCase{Case: c, Bucket: b}
		swept.readPolicy(ctx)
		return swept.judge(ctx)
	}
}

// defaultKey is the key of a bucket's default encryption, by ARN where it is known.
func defaultKey(b inventory.Bucket) string { return cmp.Or(b.DefaultKeyARN, b.DefaultKey) }

// noted notes what was read, once its alert is published.
func (b *bucketCase) noted() reaction.Told {
	return reaction.Told{Bucket: func(doc *ledger.Bucket) {
		doc.See(b.Name, defaultKey(b.Bucket), b.DefaultKey, b.AliasTags, b.denies, b.At)
	}}
}

// judge decides what is alerted about a bucket that was read, and notes it afterwards, so
// that a crash in between loses no difference.
func (b *bucketCase) judge(ctx context.Context) (*reaction.Decision, error) {
	doc, err := b.BucketLedger(ctx, b.Name)
	if err != nil {
		return nil, err
	}
	b.former = doc
	key := defaultKey(b.Bucket)
	b.in = defaultInput{key: key, former: doc.Key, known: doc.Seen, foreign: b.Config.Posture.IsForeign(key)}
	if err := b.require(ctx); err != nil {
		return nil, err
	}
	if err := b.decide(ctx); err != nil {
		return nil, err
	}
	b.Debug(ctx, "default encryption decided", "bucket", b.Name, "reason", b.reason)
	_, b.sets = b.Event.Detail.(events.BucketEncryption)
	_, b.tags = b.Event.Detail.(events.BucketTags)
	// The first event or sweep that reads a change tells it: the next one compares with what
	// is noted here.
	b.changed = b.severity != "" && (b.sets || doc.Seen && doc.Key != key)
	b.follows = !b.unread && (b.tags || doc.Seen) && !slices.Equal(doc.Aliases, b.AliasTags)
	b.opened = doc.Denies && b.denies != nil && !*b.denies
	d, err := b.watch(ctx, doc)
	if err != nil {
		return nil, err
	}
	if !b.unread {
		d.Told = b.noted()
	}
	d.Tell = b.tell
	return d, nil
}

// decide judges the default encryption. Where it changed because an alias moved, it is as
// intended: the move has an alert of its own.
func (b *bucketCase) decide(ctx context.Context) error {
	b.reason, b.severity = decideDefault(b.in)
	if b.reason != defaultLeft {
		return nil
	}
	followed, err := b.followed(ctx)
	if followed {
		b.reason, b.severity = defaultKept, ""
	}
	return err
}

// followed reports whether the default encryption went from its former key to the present
// one with an alias: the one that it names, or one that another key was put in place of.
func (b *bucketCase) followed(ctx context.Context) (bool, error) {
	if b.Config.Reencrypt == reaction.Off {
		return false, nil // nobody tells of moves
	}
	if b.DefaultAlias != "" && b.former.Default == b.DefaultKey {
		return true, nil
	}
	aliases, err := b.Aliases(ctx)
	if err != nil {
		return false, err
	}
	for _, a := range aliases {
		if a.TargetKeyARN != b.in.key || a.AWSManaged {
			continue
		}
		doc, err := b.AliasKnown(ctx, a.Name)
		if err != nil || slices.Contains(doc.Keys(), b.in.former) {
			return err == nil, err
		}
	}
	return false, nil
}

// tell tells what is different from the last read.
func (b *bucketCase) tell() (alerts []alert.Alert) {
	if b.changed {
		alerts = append(alerts, b.defaultAlert(b.severity))
	}
	if b.follows {
		alerts = append(alerts, b.tagAlert())
	}
	if b.opened {
		alerts = append(alerts, b.policyAlert())
	}
	return alerts
}

// require finds the keys of the aliases that a bucket is tagged with, and those that
// they are known to have had before.
func (b *bucketCase) require(ctx context.Context) error {
	if len(b.AliasTags) == 0 {
		return nil
	}
	aliases, err := b.Aliases(ctx)
	if err != nil {
		return err
	}
	for _, name := range b.AliasTags {
		i := slices.IndexFunc(aliases, func(a inventory.Alias) bool { return a.Name == name })
		if i >= 0 && aliases[i].TargetKeyARN != "" {
			b.in.required = append(b.in.required, aliases[i].TargetKeyARN)
		}
		doc, err := b.AliasKnown(ctx, name)
		if err != nil {
			return err
		}
		b.in.earlier = append(b.in.earlier, doc.Keys()...)
	}
	return nil
}

// common is what the alerts about a bucket have in common; made says that the event
// makes such a change, if it is one.
func (b *bucketCase) common(kind alert.Kind, severity finding.Severity, made bool) alert.Alert {
	a := b.NewAlert(kind, "")
	a.Severity = severity
	if b.DefaultKeyARN != "" {
		a.Key = &alert.Key{ARN: b.DefaultKeyARN}
	}
	switch {
	case made:
		a.Summary = fmt.Sprintf("%s called %s on bucket %s.", b.Who(), b.Event.Name, b.Name)
	case b.IsSweep():
		// The same difference is one alert, even where a crash came before it was noted.
		a.ID = fmt.Sprintf("%s/%d/%x/%x/%s", b.Event.ID, b.former.At.Unix(), sha256.Sum256([]byte(defaultKey(b.Bucket))),
			sha256.Sum256([]byte(strings.Join(b.AliasTags, ","))), kind)
		a.Summary = fmt.Sprintf("The sweep found that bucket %s has changed; %s", b.Name, reaction.Unreported)
	default:
		a.ID += "/found"
		a.Actor = nil
		a.Summary = fmt.Sprintf("Bucket %s has changed since it was last read, and no event has reported it yet. It was found because %s called %s on the bucket.", b.Name, b.Who(), b.Event.Name)
	}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper did not change the bucket."}
	a.Next = []string{"If this is not intended, change it back:"}
	return a
}

func (b *bucketCase) defaultAlert(severity finding.Severity) alert.Alert {
	a, in := b.common(alert.KindEncryption, severity, b.sets), b.in
	a.Dangers = []string{dangerDefault}
	if b.reason == defaultLeft || b.reason == defaultNone {
		a.Dangers = []string{dangerLeft + in.former}
	}
	a.Title = "New objects in bucket " + b.Name + " are encrypted under another key"
	a.Risk = "New objects are encrypted under a key that is not the expected one, and are lost if that key is lost."
	switch b.reason {
	case defaultForeign:
		a.Title = "New objects in bucket " + b.Name + " are encrypted under a key of another account"
		a.Risk = "The other account can disable or delete the key at any time, and with it everything written from now on. Ransomware attacks work this way."
	case defaultNone:
		a.Title = "New objects in bucket " + b.Name + " are no longer encrypted under a KMS key of its own"
	case defaultAstray, defaultLeft, defaultKept, defaultNew:
	}
	none := func(key string) string { return cmp.Or(key, "none of its own") }
	before := "unknown"
	if in.known {
		before = none(in.former)
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "default key now", Values: []string{none(in.key)}}, alert.Fact{Name: "default key before", Values: []string{before}})
	if len(in.required) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "keys of the aliases in the bucket's tag", Values: in.required})
	}
	key := cmp.Or(append(slices.Clone(in.required), in.former)...)
	if b.Config.Posture.IsForeign(key) { // no better than the one that it has
		key = ""
	}
	a.Next = append(a.Next, command.Line("aws s3api put-bucket-encryption --bucket %s --region %s --server-side-encryption-configuration %s", command.Bucket(b.Name), b.InRegion(),
		command.Document(json.RawMessage(`{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"`+cmp.Or(key, "KEY-ARN")+`"},"BucketKeyEnabled":true}]}`), command.BucketKey(key).Or("KEY-ARN"))))
	return a
}

// tagAlert is about the tag that says which aliases' moves concern the bucket: an actor
// who sets it has data moved, and one who removes it has it left.
func (b *bucketCase) tagAlert() alert.Alert {
	a := b.common(alert.KindTag, finding.Medium, b.tags)
	a.Title = "Tag " + inventory.AliasTag + " of bucket " + b.Name + " was changed"
	a.Risk = "The tag decides which aliases' moves re-encrypt the bucket's objects, and which key its default encryption has to use."
	a.Next = append(a.Next, command.Line("aws s3api get-bucket-tagging --bucket %s", command.Bucket(b.Name)))
	a.Facts = append(a.Facts, alert.Fact{Name: "aliases now", Values: []string{reaction.OrNothing(b.AliasTags)}},
		alert.Fact{Name: "aliases before", Values: []string{reaction.OrNothing(b.former.Aliases)}})
	return a
}

func (b *bucketCase) policyAlert() alert.Alert {
	_, policy := b.Event.Detail.(events.BucketPolicy)
	a := b.common(alert.KindEncryption, finding.Medium, policy)
	a.ID += "/policy"
	a.Dangers = []string{dangerDeny}
	if len(b.AliasTags) > 0 {
		a.Severity = finding.High
	}
	a.Title = "Policy of bucket " + b.Name + " no longer denies uploads with other encryption"
	a.Risk = "Objects can be uploaded with encryption other than intended: under S3's own key, or under a key of somebody else."
	a.Next = append(a.Next, command.Line("aws s3api get-bucket-policy --bucket %s --query Policy --output text", command.Bucket(b.Name)))
	return a
}

// readPolicy reads whether the bucket's policy denies uploads for their encryption.
func (b *bucketCase) readPolicy(ctx context.Context) {
	document, err := b.Facts.BucketPolicy(ctx, b.Name)
	if err != nil {
		b.Debug(ctx, "policy of a bucket cannot be read", "bucket", b.Name, "error", err)
		return
	}
	denies := deniesUploads(document)
	b.denies = &denies
}

// encryptionConditions begin the condition keys about the encryption of uploads.
const encryptionConditions = "s3:x-amz-server-side-encryption"

// deniesUploads reports whether a bucket policy has a statement that denies
// uploads on a condition about their encryption.
func deniesUploads(document string) bool {
	var p struct {
		Statement json.RawMessage
	}
	if json.Unmarshal([]byte(document), &p) != nil {
		return false
	}
	type statement struct {
		Effect    string
		Action    json.RawMessage
		Condition map[string]map[string]json.RawMessage
	}
	var all []statement
	if json.Unmarshal(p.Statement, &all) != nil {
		var one statement // one statement needs no list
		if json.Unmarshal(p.Statement, &one) != nil {
			return false
		}
		all = []statement{one}
	}
	for _, s := range all {
		action := strings.ToLower(string(s.Action))
		if s.Effect != "Deny" || !strings.Contains(action, "s3:put") && !strings.Contains(action, `"s3:*"`) && !strings.Contains(action, `"*"`) {
			continue
		}
		for _, keys := range s.Condition {
			for key := range keys {
				if strings.HasPrefix(strings.ToLower(key), encryptionConditions) {
					return true
				}
			}
		}
	}
	return false
}
