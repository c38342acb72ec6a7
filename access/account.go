package access

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Account is the IAM of an account, as far as it matters. The zero value has nobody.
type Account struct {
	// ID is the account's twelve digits, Partition that of its ARNs; "" means aws.
	ID, Partition string
	Users, Roles  []Principal
	// Groups are by name.
	Groups map[string]Group
	// Policies are the default versions of managed policies, by ARN.
	Policies map[string]string
	// Unread: IAM could not be read. What it decides is then conditional.
	Unread bool
}

// Root is the ARN of the account's root.
func (a Account) Root() string {
	return "arn:" + cmp.Or(a.Partition, "aws") + ":iam::" + a.ID + ":root"
}

// Principal is a user or a role.
type Principal struct {
	ARN, Name string
	// ID is the unique id, AIDA… or AROA….
	ID   string
	Role bool
	// LastUsed is when a role last called anything; zero for a user, and for a role that
	// has not called in the time that IAM looks back.
	LastUsed time.Time
	Tags     map[string]string
	// Inline are the policies of its own by name, Attached the ARNs of managed ones.
	Inline   map[string]string
	Attached []string
	// Groups are the names of a user's groups.
	Groups []string
	// Boundary is the ARN of the managed policy that is its permissions boundary, or "".
	Boundary string
	// Trust is a role's trust policy: who may assume it.
	Trust string
	// Instances: EC2 instances can have the role, by an instance profile.
	Instances bool
}

// Group is a group of users.
type Group struct {
	ARN, Name string
	Inline    map[string]string
	Attached  []string
}

// API is IAM: Call calls an action of its query API, and decodes the answer's result.
// *awsclient.IAM is one.
type API interface {
	Call(ctx context.Context, action string, parameters url.Values, result any) error
}

// Permission is what [Read] needs.
const Permission = "iam:GetAccountAuthorizationDetails"

// maxPages bounds an answer of IAM: an account can have some 7,000 users and roles, of which
// a page has at most 1,000.
const maxPages = 1000

// Read reads the IAM of the account that calls (GetAccountAuthorizationDetails). Its error is
// that of the call, and says which permission it needs.
func Read(ctx context.Context, iam API, account string) (Account, error) {
	a := Account{ID: account, Groups: map[string]Group{}, Policies: map[string]string{}}
	parameters := url.Values{"MaxItems": {"1000"}}
	for range maxPages {
		var page detailsResult
		if err := iam.Call(ctx, "GetAccountAuthorizationDetails", parameters, &page); err != nil {
			return Account{}, fmt.Errorf("read the account's IAM (%s): %w", Permission, err)
		}
		if err := a.add(page); err != nil {
			return Account{}, fmt.Errorf("read the account's IAM: %w", err)
		}
		if !page.IsTruncated {
			return a, nil
		}
		parameters.Set("Marker", page.Marker)
	}
	return Account{}, fmt.Errorf("read the account's IAM: more than %d pages", maxPages)
}

// detailsResult is a page of GetAccountAuthorizationDetails (IAM API Reference).
type detailsResult struct {
	IsTruncated bool
	Marker      string
	Users       []struct {
		Arn, UserName, UserId string
		GroupList             []string       `xml:"GroupList>member"`
		UserPolicyList        []policyDetail `xml:"UserPolicyList>member"`
		AttachedPolicies      []attached     `xml:"AttachedManagedPolicies>member"`
		Boundary              boundary       `xml:"PermissionsBoundary"`
		Tags                  []tag          `xml:"Tags>member"`
	} `xml:"UserDetailList>member"`
	Roles []struct {
		Arn, RoleName, RoleId    string
		AssumeRolePolicyDocument string
		RolePolicyList           []policyDetail `xml:"RolePolicyList>member"`
		AttachedPolicies         []attached     `xml:"AttachedManagedPolicies>member"`
		Boundary                 boundary       `xml:"PermissionsBoundary"`
		Tags                     []tag          `xml:"Tags>member"`
		Profiles                 []struct{}     `xml:"InstanceProfileList>member"`
		LastUsed                 struct {
			LastUsedDate time.Time
		} `xml:"RoleLastUsed"`
	} `xml:"RoleDetailList>member"`
	Groups []struct {
		Arn, GroupName   string
		GroupPolicyList  []policyDetail `xml:"GroupPolicyList>member"`
		AttachedPolicies []attached     `xml:"AttachedManagedPolicies>member"`
	} `xml:"GroupDetailList>member"`
	Policies []struct {
		Arn      string
		Versions []struct {
			Document         string
			IsDefaultVersion bool
		} `xml:"PolicyVersionList>member"`
	} `xml:"Policies>member"`
}

type (
	policyDetail struct{ PolicyName, PolicyDocument string }
	attached     struct{ PolicyArn string }
	boundary     struct{ PermissionsBoundaryArn string }
	tag          struct{ Key, Value string }
)

// add adds a page. Policies come encoded as in URLs (RFC 3986).
func (a *Account) add(page detailsResult) (err error) {
	decode := func(text string) string {
		plain, wrong := url.PathUnescape(text)
		if wrong != nil && err == nil {
			err = fmt.Errorf("a policy's document: %w", wrong)
		}
		return plain
	}
	inline := func(list []policyDetail) map[string]string {
		m := map[string]string{}
		for _, p := range list {
			m[p.PolicyName] = decode(p.PolicyDocument)
		}
		return m
	}
	for _, u := range page.Users {
		a.Users = append(a.Users, Principal{
			ARN: u.Arn, Name: u.UserName, ID: u.UserId, Tags: tagsOf(u.Tags), Inline: inline(u.UserPolicyList),
			Attached: arnsOf(u.AttachedPolicies), Groups: u.GroupList, Boundary: u.Boundary.PermissionsBoundaryArn,
		})
		a.Partition = arn.Parse(u.Arn).Partition
	}
	for _, r := range page.Roles {
		a.Roles = append(a.Roles, Principal{
			ARN: r.Arn, Name: r.RoleName, ID: r.RoleId, Role: true, Tags: tagsOf(r.Tags), Inline: inline(r.RolePolicyList),
			Attached: arnsOf(r.AttachedPolicies), Boundary: r.Boundary.PermissionsBoundaryArn,
			Trust: decode(r.AssumeRolePolicyDocument), LastUsed: r.LastUsed.LastUsedDate, Instances: len(r.Profiles) > 0,
		})
		a.Partition = arn.Parse(r.Arn).Partition
	}
	for _, g := range page.Groups {
		a.Groups[g.GroupName] = Group{ARN: g.Arn, Name: g.GroupName, Inline: inline(g.GroupPolicyList), Attached: arnsOf(g.AttachedPolicies)}
	}
	for _, p := range page.Policies {
		for _, v := range p.Versions {
			if v.IsDefaultVersion {
				a.Policies[p.Arn] = decode(v.Document)
			}
		}
	}
	return err
}

func tagsOf(list []tag) map[string]string {
	m := map[string]string{}
	for _, t := range list {
		m[t.Key] = t.Value
	}
	return m
}

func arnsOf(list []attached) (all []string) {
	for _, p := range list {
		all = append(all, p.PolicyArn)
	}
	return all
}
