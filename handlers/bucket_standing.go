package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// What may be wrong with a bucket as it stands. What it left, and that its policy denied
// uploads, shows only in comparison with an earlier read; it is wrong until it is back.
const (
	dangerDefault = "default" // it is not under the key that it should be under
	dangerLeft    = "left/"   // and the key that it left
	dangerGone    = "gone/"   // and the alias that it names, which is not there
	dangerDeny    = "deny"
)

// watch watches what is wrong with the bucket.
func (b *bucketCase) watch(ctx context.Context, doc *ledger.Bucket) (*reaction.Decision, error) {
	if err := b.readAliases(ctx); err != nil {
		return nil, err
	}
	return b.Watch(ctx, reaction.Watch{
		Thing:    "bucket/" + b.Name,
		Live:     func() []reaction.Danger { return b.dangers(&doc.Standing) },
		Looked:   b.looked,
		Ends:     b.ends,
		Standing: func() *ledger.Standing { return &doc.Standing },
		Update: func(change func(*ledger.Standing)) reaction.Told {
			return reaction.Told{Bucket: func(doc *ledger.Bucket) { change(&doc.Standing) }}
		},
		Key: func() *alert.Key {
			if b.DefaultKeyARN == "" {
				return nil
			}
			return &alert.Key{ARN: b.DefaultKeyARN}
		},
	})
}

// readAliases reads, for a sweep, whether the aliases are there that the bucket names, and
// what was told of those that are not.
func (b *bucketCase) readAliases(ctx context.Context) error {
	if !b.IsSweep() || len(b.names()) == 0 {
		return nil
	}
	if _, err := b.Aliases(ctx); err != nil {
		return err
	}
	b.goneTold = map[string]string{}
	for _, name := range b.gone() {
		doc, err := b.AliasKnown(ctx, name)
		if err != nil {
			return err
		}
		if newest, known := doc.Newest(); known && newest.Deleted {
			b.goneTold[name] = doc.GoneTold
		}
	}
	return nil
}

// names are the aliases that the bucket names.
func (b *bucketCase) names() []string {
	names := slices.Clone(b.AliasTags)
	if b.DefaultAlias != "" && !slices.Contains(names, b.DefaultAlias) {
		names = append(names, b.DefaultAlias)
	}
	return names
}

// gone are those of them that are not there, as far as that was read.
func (b *bucketCase) gone() []string {
	aliases := b.AliasesRead()
	if !aliases.Known() {
		return nil
	}
	return slices.DeleteFunc(b.names(), func(name string) bool {
		return strings.HasPrefix(name, "alias/aws/") || slices.ContainsFunc(aliases.Value, func(a inventory.Alias) bool { return a.Name == name })
	})
}

// looked reports whether what was read shows a danger of that name, or that there is none.
func (b *bucketCase) looked(name string) bool {
	switch {
	case b.unread:
		return false
	case name == dangerDeny:
		return b.denies != nil
	case strings.HasPrefix(name, dangerGone):
		return b.AliasesRead().Known()
	}
	return true
}

// ends reports whether the event ends a danger of that name.
func (b *bucketCase) ends(name string) bool {
	switch b.Event.Name {
	case "PutBucketEncryption", "DeleteBucketEncryption":
		return name == dangerDefault || strings.HasPrefix(name, dangerLeft)
	case "PutBucketPolicy":
		return name == dangerDeny
	case "PutBucketTagging", "DeleteBucketTagging":
		return name == dangerDefault
	}
	return false
}

// dangers are what is wrong with the bucket by what was read of it.
func (b *bucketCase) dangers(known *ledger.Standing) (all []reaction.Danger) {
	if b.unread {
		return nil
	}
	add := func(name string, a alert.Alert) {
		if !slices.ContainsFunc(all, func(d reaction.Danger) bool { return d.Name == name }) {
			a.Dangers = []string{name}
			all = append(all, reaction.Danger{Name: name, Alert: a, Told: b.goneTold[strings.TrimPrefix(name, dangerGone)]})
		}
	}
	switch b.reason {
	case defaultForeign, defaultAstray:
		add(dangerDefault, b.standingAlert())
	case defaultLeft, defaultNone:
		if b.changed {
			add(dangerLeft+b.in.former, b.standingAlert())
		}
	case defaultKept, defaultNew:
	}
	for _, o := range known.Open {
		if key, left := strings.CutPrefix(o.Name, dangerLeft); left && key != b.in.key && !slices.Contains(b.in.required, b.in.key) {
			add(o.Name, b.leftAlert(o))
		}
	}
	for _, name := range b.gone() {
		add(dangerGone+name, b.goneAlert(name))
	}
	if b.denies != nil && !*b.denies && (b.opened || known.Of(dangerDeny) != nil) {
		add(dangerDeny, b.policyAlert())
	}
	return all
}

// standingAlert is about a default encryption that may always have been so.
func (b *bucketCase) standingAlert() alert.Alert {
	a := b.defaultAlert(b.severity)
	if b.IsSweep() {
		a.Summary = fmt.Sprintf("The sweep found bucket %s so; no event has reported it.", b.Name)
	}
	return a
}

// leftAlert is about a key that the bucket left at another time.
func (b *bucketCase) leftAlert(o ledger.Open) alert.Alert {
	a := b.common(alert.KindEncryption, o.Severity, false)
	a.Title = o.Title
	return a
}

// goneAlert is about an alias that the bucket names and that is not there.
func (b *bucketCase) goneAlert(name string) alert.Alert {
	a := b.common(alert.KindAlias, finding.High, false)
	a.Title = "Bucket " + b.Name + " names alias " + name + ", which does not exist"
	a.Summary = fmt.Sprintf("The sweep found that bucket %s names %s in its default encryption or in its tag, and that there is no such alias; no event has reported it.", b.Name, name)
	a.Risk = "If the alias is created for another key, that counts as a move, and the bucket's objects may be re-encrypted."
	if b.DefaultAlias == name {
		a.Risk = "Uploads that rely on the bucket's default encryption fail while that names no key. If the alias is created for another key, new data goes under that key."
	}
	a.Next = []string{"Name another alias in the bucket's settings, or create the alias again, if it is needed:",
		command.Line("aws kms create-alias --region %s --alias-name %s --target-key-id %s", b.InRegion(), command.Alias(name), command.KeyID(arn.KeyID(b.former.Key)).Or("KEY-ID"))}
	return a
}
