package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// The schemas of reports as JSON. Members may be added to them.
const (
	ReportSchema    = "cmkeeper.access.v1"
	PrincipalSchema = "cmkeeper.access-of.v1"
)

// Report says who may use a key.
type Report struct {
	Schema  string   `json:"schema"`
	Key     string   `json:"key"`
	Aliases []string `json:"aliases,omitempty"`
	// At is when the key and the account's IAM were read.
	At       time.Time         `json:"at"`
	Holders  []Holder          `json:"holders"`
	Findings []finding.Finding `json:"findings"`
	// NotSeen is what also decides and cannot be read. Unread is what could not be read,
	// with the reason: there may be further holders.
	NotSeen []string `json:"not_seen"`
	Unread  []string `json:"unread,omitempty"`
}

// NotSeen is what decides about a request beside what this package knows.
func NotSeen() []string {
	return []string{
		"Service control policies and resource control policies of an organization, session policies and VPC endpoint policies: they can only take away.",
		"IAM policies of other accounts, without which their users and roles have nothing of what the key policy gives to their account.",
		"Federated users (GetFederationToken), who have what their user and their session policy have in common.",
	}
}

// Report answers for a key. Its error says that the key policy cannot be read.
func (r *Review) Report(k Key, unread []string) (Report, error) {
	holders, err := r.Holders(k)
	if err != nil {
		return Report{}, err
	}
	found, err := r.Findings(k, holders)
	if err != nil {
		return Report{}, err
	}
	for i := range holders {
		r.addAssumers(&holders[i])
	}
	return Report{
		Schema: ReportSchema, Key: k.ARN, Aliases: k.Aliases, At: r.context.Now, Holders: holders,
		Findings: finding.WorstFirst(append(found, r.AllKeys(k.Region)...)), NotSeen: NotSeen(),
		Unread: append(unread, r.Unread(holders)...),
	}, nil
}

// Facts is what is read of keys; *inventory.Reader has it.
type Facts interface {
	Key(ctx context.Context, name string) (inventory.Key, error)
	Policy(ctx context.Context, keyARN string) (string, error)
	Grants(ctx context.Context, keyARN string) ([]inventory.Grant, error)
	Tags(ctx context.Context, keyARN string) (map[string]string, error)
	AliasesOf(ctx context.Context, keyARN string) ([]inventory.Alias, error)
}

// ReadKey reads what is to be known of a key, by its ARN, id or alias. What could not be read
// is in unread, with the reason and the permission; without the key itself and its policy
// there is no answer, which is an error.
func ReadKey(ctx context.Context, facts Facts, name string) (k Key, unread []string, err error) {
	if k.Key, err = facts.Key(ctx, name); err != nil {
		return k, nil, permitted(err, "kms:DescribeKey")
	}
	if k.Policy, err = facts.Policy(ctx, k.ARN); err != nil {
		return k, nil, permitted(err, "kms:GetKeyPolicy")
	}
	note := func(what string, err error, permission string) {
		if err != nil {
			unread = append(unread, what+": "+permitted(err, permission).Error())
		}
	}
	k.Grants, err = facts.Grants(ctx, k.ARN)
	note("grants", err, "kms:ListGrants")
	k.Tags, err = facts.Tags(ctx, k.ARN)
	note("tags of the key", err, "kms:ListResourceTags")
	aliases, err := facts.AliasesOf(ctx, k.ARN)
	if note("aliases", err, "kms:ListAliases"); err == nil {
		k.Aliases = []string{}
	}
	for _, a := range aliases {
		k.Aliases = append(k.Aliases, a.Name)
	}
	return k, unread, nil
}

// permitted names the permission that is missing, where one is.
func permitted(err error, permission string) error {
	if errors.Is(err, inventory.ErrAccessDenied) {
		return fmt.Errorf("%w; this takes %s", err, permission)
	}
	return err
}

// PrincipalReport says with which keys a principal may do something, and what.
type PrincipalReport struct {
	Schema    string      `json:"schema"`
	Principal string      `json:"principal"`
	At        time.Time   `json:"at"`
	Keys      []KeyRights `json:"keys"`
	NotSeen   []string    `json:"not_seen"`
	Unread    []string    `json:"unread,omitempty"`
}

// KeyRights is what a principal may do with a key.
type KeyRights struct {
	Key     string   `json:"key"`
	Aliases []string `json:"aliases,omitempty"`
	Rights  []Right  `json:"rights"`
}
