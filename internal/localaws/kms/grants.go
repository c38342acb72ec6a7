package kms

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type grant struct {
	grantTerms
	id, token string
	created   time.Time
	issuer    string
}

// grantTerms is what CreateGrant asks for; the same terms under the same name
// are the same grant.
type grantTerms struct {
	Constraints              *grantConstraints `json:"Constraints,omitempty"`
	GranteePrincipal         string            `json:"GranteePrincipal,omitempty"`
	GranteeServicePrincipal  string            `json:"GranteeServicePrincipal,omitempty"`
	RetiringPrincipal        string            `json:"RetiringPrincipal,omitempty"`
	RetiringServicePrincipal string            `json:"RetiringServicePrincipal,omitempty"`
	Operations               []string          `json:"Operations"`
	Name                     string            `json:"Name,omitempty"`
}

type grantConstraints struct {
	EncryptionContextEquals map[string]string `json:"EncryptionContextEquals,omitempty"`
	EncryptionContextSubset map[string]string `json:"EncryptionContextSubset,omitempty"`
	SourceArn               *string           `json:"SourceArn,omitempty"`
}

var grantOperations = []string{
	"CreateGrant", "Decapsulate", "Decrypt", "DeriveSharedSecret", "DescribeKey", "Encapsulate", "Encrypt", "GenerateDataKey",
	"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateMac",
	"GetPublicKey", "ReEncryptFrom", "ReEncryptTo", "RetireGrant", "Sign", "Verify", "VerifyMac",
}

// is reports whether the principal of a grant or a filter is the caller.
func (c *call) is(principal string) bool {
	return principal != "" && (principal == c.caller.ARN || principal == c.role())
}

// grantsInForce are the grants that callers can use: with a constraint on the source ARN
// only AWS services call, which do not call with a grant here.
func (k *key) grantsInForce() (grants []iam.Grant) {
	for _, g := range k.grants {
		in := iam.Grant{Grantee: g.GranteePrincipal, Operations: g.Operations}
		if on := g.Constraints; on != nil {
			if on.SourceArn != nil {
				continue
			}
			in.ContextEquals, in.ContextSubset = on.EncryptionContextEquals, on.EncryptionContextSubset
		}
		grants = append(grants, in)
	}
	return grants
}

type createGrantInput struct {
	KeyID  string `json:"KeyId"`
	DryRun *bool  `json:"DryRun"`
	grantTerms
}

type createGrantOutput struct {
	GrantID    string `json:"GrantId"`
	GrantToken string `json:"GrantToken" trail:"-"`
}

// createGrantElements is the answer as CloudTrail shows it: with the key, without the token.
type createGrantElements struct {
	createGrantOutput
	KeyID string `json:"KeyId"`
}

func createGrant(c *call, in *createGrantInput) (createGrantOutput, error) {
	var out createGrantOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if err := k.ready(); err != nil {
		return out, err
	}
	if len(in.Operations) == 0 || (in.GranteePrincipal == "") == (in.GranteeServicePrincipal == "") {
		return out, invalid("A grant needs operations and one grantee principal")
	}
	for _, o := range in.Operations {
		if !slices.Contains(grantOperations, o) {
			return out, invalid("1 validation error detected: Value '%s' at 'operations' failed to satisfy constraint: Member must satisfy enum value set", o)
		}
	}
	if err := dryRun(in.DryRun); err != nil {
		return out, err
	}
	g := k.sameGrant(in.grantTerms)
	if g == nil {
		g = &grant{grantTerms: in.grantTerms, id: randomHex(32), created: c.now, issuer: c.rootARN()}
		k.grants[g.id] = g
	}
	g.token = randomHex(64)
	out = createGrantOutput{GrantID: g.id, GrantToken: g.token}
	c.response = createGrantElements{createGrantOutput: out, KeyID: k.arn}
	return out, nil
}

// sameGrant returns the grant of the same name and terms, or nil.
func (k *key) sameGrant(terms grantTerms) *grant {
	if terms.Name == "" {
		return nil
	}
	for _, g := range k.grants {
		if reflect.DeepEqual(g.grantTerms, terms) {
			return g
		}
	}
	return nil
}

// dryRun ends an operation that was only to be tried.
func dryRun(asked *bool) error {
	if asked != nil && *asked {
		return wire.Errorf(412, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
	}
	return nil
}

type listGrantsInput struct {
	KeyID                   string `json:"KeyId"`
	GrantID                 string `json:"GrantId"`
	GranteePrincipal        string `json:"GranteePrincipal"`
	GranteeServicePrincipal string `json:"GranteeServicePrincipal"`
	pageInput
}

type listGrantsOutput struct {
	Grants []grantEntry `json:"Grants"`
	pageOutput
}

type grantEntry struct {
	KeyID          string    `json:"KeyId"`
	GrantID        string    `json:"GrantId"`
	CreationDate   timestamp `json:"CreationDate"`
	IssuingAccount string    `json:"IssuingAccount"`
	grantTerms
}

func listGrants(c *call, in *listGrantsInput) (listGrantsOutput, error) {
	var out listGrantsOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	matches := func(filter, value string) bool { return filter == "" || filter == value }
	entries := k.grantEntries(func(g *grant) bool {
		return matches(in.GrantID, g.id) && matches(in.GranteePrincipal, g.GranteePrincipal) &&
			matches(in.GranteeServicePrincipal, g.GranteeServicePrincipal)
	})
	out.Grants, out.pageOutput, err = paginate(entries, grantEntry.id, in.pageInput, 50, 100)
	return out, err
}

func (e grantEntry) id() string { return e.GrantID }

// grantEntries lists the key's grants that are wanted, by id.
func (k *key) grantEntries(wanted func(*grant) bool) []grantEntry {
	entries := []grantEntry{}
	for _, id := range slices.Sorted(maps.Keys(k.grants)) {
		if g := k.grants[id]; wanted(g) {
			entries = append(entries, grantEntry{
				KeyID: k.arn, GrantID: g.id, CreationDate: timestamp(g.created), IssuingAccount: g.issuer, grantTerms: g.grantTerms,
			})
		}
	}
	return entries
}

type listRetirableGrantsInput struct {
	RetiringPrincipal        string `json:"RetiringPrincipal"`
	RetiringServicePrincipal string `json:"RetiringServicePrincipal"`
	pageInput
}

func listRetirableGrants(c *call, in *listRetirableGrantsInput) (listGrantsOutput, error) {
	var out listGrantsOutput
	if err := c.authorizeIdentity(c.name); err != nil {
		return out, err
	}
	if in.RetiringPrincipal == "" && in.RetiringServicePrincipal == "" {
		return out, invalid("A retiring principal is required")
	}
	entries := []grantEntry{}
	for _, k := range c.keys {
		entries = append(entries, k.grantEntries(func(g *grant) bool {
			return g.RetiringPrincipal == in.RetiringPrincipal && g.RetiringServicePrincipal == in.RetiringServicePrincipal
		})...)
	}
	slices.SortFunc(entries, func(a, b grantEntry) int { return strings.Compare(a.GrantID, b.GrantID) })
	var err error
	out.Grants, out.pageOutput, err = paginate(entries, grantEntry.id, in.pageInput, 50, 100)
	return out, err
}

type retireGrantInput struct {
	KeyID      string `json:"KeyId"`
	GrantID    string `json:"GrantId"`
	GrantToken string `json:"GrantToken" trail:"-"`
	DryRun     *bool  `json:"DryRun"`
}

// grantData is what CloudTrail adds to the record of a retired grant.
type grantData struct {
	GrantID string `json:"GrantId"`
}

// retireGrant needs no permission of the key policy: the grant says who may
// retire it, besides the account's root user.
func retireGrant(c *call, in *retireGrantInput) error {
	k, g, err := c.grantToRetire(in)
	if err != nil {
		return err
	}
	c.key, c.additional = k, grantData{g.id}
	grantee := c.is(g.GranteePrincipal) && slices.Contains(g.Operations, "RetireGrant")
	if !c.is(g.RetiringPrincipal) && !grantee && c.caller.ARN != c.rootARN() {
		return c.denied(c.name, k.arn, "because the grant names another retiring principal")
	}
	if err := dryRun(in.DryRun); err != nil {
		return err
	}
	delete(k.grants, g.id)
	return nil
}

func (c *call) grantToRetire(in *retireGrantInput) (*key, *grant, error) {
	if in.GrantToken == "" {
		k, err := c.find(in.KeyID, byKey)
		if err != nil {
			return nil, nil, err
		}
		g, err := k.grant(in.GrantID)
		return k, g, err
	}
	for _, k := range c.keys {
		for _, g := range k.grants {
			if g.token == in.GrantToken {
				return k, g, nil
			}
		}
	}
	return nil, nil, wire.Errorf(400, "InvalidGrantTokenException", "The grant token is not valid")
}

func (k *key) grant(id string) (*grant, error) {
	if g := k.grants[id]; g != nil {
		return g, nil
	}
	return nil, notFound("Grant ID %s not found", id)
}

type revokeGrantInput struct {
	KeyID   string `json:"KeyId"`
	GrantID string `json:"GrantId"`
	DryRun  *bool  `json:"DryRun"`
}

func revokeGrant(c *call, in *revokeGrantInput) error {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return err
	}
	g, err := k.grant(in.GrantID)
	if err != nil {
		return err
	}
	if err := dryRun(in.DryRun); err != nil {
		return err
	}
	delete(k.grants, g.id)
	return nil
}
