package iam_test

import (
	"encoding/xml"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	decryptAll = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`
	byEC2      = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}}`
	// decryptAll and byEC2 as RFC 3986 has them.
	decryptAllEncoded = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22kms%3ADecrypt%22%2C%22Resource%22%3A%22%2A%22%7D%7D"
	byEC2Encoded      = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%7B%22Effect%22%3A%22Allow%22%2C%22Principal%22%3A%7B%22Service%22%3A%22ec2.amazonaws.com%22%7D%2C%22Action%22%3A%22sts%3AAssumeRole%22%7D%7D"
)

// filled is an account with one of everything.
func filled(t *testing.T) *iam.Account {
	t.Helper()
	a := iam.NewAccount("111122223333")
	created := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	must := func(arn string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return arn
	}
	read := must(a.SetPolicy(iam.ManagedPolicy{Name: "read", Path: "/team/", Description: "Reads", Created: created, Versions: []string{decryptAll, decryptAll}, Default: 1}))
	power := must(a.SetPolicy(iam.ManagedPolicy{Name: "PowerUserAccess", AWS: true, Created: created, Versions: []string{decryptAll}}))
	must(a.SetGroup(iam.Group{Name: "admins", Created: created, Attached: []string{power}}))
	must(a.SetUser(iam.User{
		Name: "ada", Path: "/team/", Created: created, Groups: []string{"admins"}, Inline: map[string]string{"own": decryptAll},
		Attached: []string{read}, Boundary: power, Tags: map[string]string{"team": "a&b"},
	}))
	must(a.SetUser(iam.User{Name: "bob", Created: created}))
	must(a.SetRole(iam.Role{Name: "web", Created: created, Trust: byEC2, InstanceProfiles: []string{"web"}, LastUsed: created.Add(time.Hour), LastUsedRegion: "eu-central-1"}))
	return a
}

func call(t *testing.T, a *iam.Account, caller wire.Caller, form url.Values) (status int, body string) {
	t.Helper()
	parameters := url.Values{"Action": {"GetAccountAuthorizationDetails"}, "Version": {"2010-05-08"}}
	maps.Copy(parameters, form)
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(parameters.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r.WithContext(wire.WithRequest(r.Context(), caller, "req-1")))
	return w.Code, w.Body.String()
}

var reader = wire.Caller{AccountID: "111122223333", ARN: "arn:aws:iam::111122223333:user/reader"}

// TestListing is the answer as the samples of the IAM API Reference and its data types
// (UserDetail, GroupDetail, RoleDetail, ManagedPolicyDetail) have it, element for element.
func TestListing(t *testing.T) {
	_, got := call(t, filled(t), reader, nil)
	unique := regexp.MustCompile(`(AIDA|AGPA|AROA|AIPA|ANPA)[A-Z2-7]{17}`)
	got = unique.ReplaceAllString(got, "$1")
	want := xml.Header + `<GetAccountAuthorizationDetailsResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><GetAccountAuthorizationDetailsResult>
<IsTruncated>false</IsTruncated>
<UserDetailList>
<member><Path>/team/</Path><UserName>ada</UserName><UserId>AIDA</UserId><Arn>arn:aws:iam::111122223333:user/team/ada</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate>
<UserPolicyList><member><PolicyName>own</PolicyName><PolicyDocument>` + decryptAllEncoded + `</PolicyDocument></member></UserPolicyList>
<GroupList><member>admins</member></GroupList>
<AttachedManagedPolicies><member><PolicyName>read</PolicyName><PolicyArn>arn:aws:iam::111122223333:policy/team/read</PolicyArn></member></AttachedManagedPolicies>
<PermissionsBoundary><PermissionsBoundaryType>Policy</PermissionsBoundaryType><PermissionsBoundaryArn>arn:aws:iam::aws:policy/PowerUserAccess</PermissionsBoundaryArn></PermissionsBoundary>
<Tags><member><Key>team</Key><Value>a&amp;b</Value></member></Tags></member>
<member><Path>/</Path><UserName>bob</UserName><UserId>AIDA</UserId><Arn>arn:aws:iam::111122223333:user/bob</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate>
<UserPolicyList></UserPolicyList><GroupList></GroupList><AttachedManagedPolicies></AttachedManagedPolicies><Tags></Tags></member>
</UserDetailList>
<GroupDetailList>
<member><Path>/</Path><GroupName>admins</GroupName><GroupId>AGPA</GroupId><Arn>arn:aws:iam::111122223333:group/admins</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate>
<GroupPolicyList></GroupPolicyList>
<AttachedManagedPolicies><member><PolicyName>PowerUserAccess</PolicyName><PolicyArn>arn:aws:iam::aws:policy/PowerUserAccess</PolicyArn></member></AttachedManagedPolicies></member>
</GroupDetailList>
<RoleDetailList>
<member><Path>/</Path><RoleName>web</RoleName><RoleId>AROA</RoleId><Arn>arn:aws:iam::111122223333:role/web</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate><AssumeRolePolicyDocument>` + byEC2Encoded + `</AssumeRolePolicyDocument>
<InstanceProfileList><member><Path>/</Path><InstanceProfileName>web</InstanceProfileName><InstanceProfileId>AIPA</InstanceProfileId><Arn>arn:aws:iam::111122223333:instance-profile/web</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate>
<Roles><member><Path>/</Path><RoleName>web</RoleName><RoleId>AROA</RoleId><Arn>arn:aws:iam::111122223333:role/web</Arn><CreateDate>2026-03-04T05:06:07Z</CreateDate><AssumeRolePolicyDocument>` + byEC2Encoded + `</AssumeRolePolicyDocument></member></Roles></member></InstanceProfileList>
<RolePolicyList></RolePolicyList><AttachedManagedPolicies></AttachedManagedPolicies><Tags></Tags>
<RoleLastUsed><LastUsedDate>2026-03-04T06:06:07Z</LastUsedDate><Region>eu-central-1</Region></RoleLastUsed></member>
</RoleDetailList>
<Policies>
<member><PolicyName>read</PolicyName><PolicyId>ANPA</PolicyId><Arn>arn:aws:iam::111122223333:policy/team/read</Arn><Path>/team/</Path><DefaultVersionId>v1</DefaultVersionId>
<AttachmentCount>1</AttachmentCount><PermissionsBoundaryUsageCount>0</PermissionsBoundaryUsageCount><IsAttachable>true</IsAttachable><Description>Reads</Description>
<CreateDate>2026-03-04T05:06:07Z</CreateDate><UpdateDate>2026-03-04T05:06:07Z</UpdateDate>
<PolicyVersionList><member><Document>` + decryptAllEncoded + `</Document><VersionId>v2</VersionId><IsDefaultVersion>false</IsDefaultVersion><CreateDate>2026-03-04T05:06:07Z</CreateDate></member>
<member><Document>` + decryptAllEncoded + `</Document><VersionId>v1</VersionId><IsDefaultVersion>true</IsDefaultVersion><CreateDate>2026-03-04T05:06:07Z</CreateDate></member></PolicyVersionList></member>
<member><PolicyName>PowerUserAccess</PolicyName><PolicyId>ANPA</PolicyId><Arn>arn:aws:iam::aws:policy/PowerUserAccess</Arn><Path>/</Path><DefaultVersionId>v1</DefaultVersionId>
<AttachmentCount>1</AttachmentCount><PermissionsBoundaryUsageCount>1</PermissionsBoundaryUsageCount><IsAttachable>true</IsAttachable>
<CreateDate>2026-03-04T05:06:07Z</CreateDate><UpdateDate>2026-03-04T05:06:07Z</UpdateDate>
<PolicyVersionList><member><Document>` + decryptAllEncoded + `</Document><VersionId>v1</VersionId><IsDefaultVersion>true</IsDefaultVersion><CreateDate>2026-03-04T05:06:07Z</CreateDate></member></PolicyVersionList></member>
</Policies></GetAccountAuthorizationDetailsResult><ResponseMetadata><RequestId>req-1</RequestId></ResponseMetadata></GetAccountAuthorizationDetailsResponse>`
	want = strings.Replace(strings.ReplaceAll(want, "\n", ""), "?>", "?>\n", 1)
	if d := cmp.Diff(strings.ReplaceAll(want, "><", ">\n<"), strings.ReplaceAll(got, "><", ">\n<")); d != "" {
		t.Error(d)
	}
	if document, err := url.PathUnescape(byEC2Encoded); err != nil || document != byEC2 {
		t.Errorf("%s, %v", document, err)
	}
}

type page struct {
	Users     []string `xml:"GetAccountAuthorizationDetailsResult>UserDetailList>member>Arn"`
	Groups    []string `xml:"GetAccountAuthorizationDetailsResult>GroupDetailList>member>Arn"`
	Roles     []string `xml:"GetAccountAuthorizationDetailsResult>RoleDetailList>member>Arn"`
	Policies  []string `xml:"GetAccountAuthorizationDetailsResult>Policies>member>Arn"`
	Truncated bool     `xml:"GetAccountAuthorizationDetailsResult>IsTruncated"`
	Marker    string   `xml:"GetAccountAuthorizationDetailsResult>Marker"`
}

func (p page) all() []string { return slices.Concat(p.Users, p.Groups, p.Roles, p.Policies) }

func pageOf(t *testing.T, a *iam.Account, form url.Values) (p page) {
	t.Helper()
	status, body := call(t, a, reader, form)
	if err := xml.Unmarshal([]byte(body), &p); err != nil || status != http.StatusOK {
		t.Fatal(status, err, body)
	}
	return p
}

// TestPages: pages of any size are the whole, in order; one may hold parts of several lists.
func TestPages(t *testing.T) {
	a := filled(t)
	want := pageOf(t, a, nil).all()
	for most := 1; most <= len(want); most++ {
		var got []string
		form := url.Values{"MaxItems": {strconv.Itoa(most)}}
		for {
			p := pageOf(t, a, form)
			got = append(got, p.all()...)
			if rest := len(want) > len(got); p.Truncated != rest || (p.Marker != "") != rest || rest && len(p.all()) != most {
				t.Fatalf("%d a page: %+v", most, p)
			}
			if !p.Truncated {
				break
			}
			form.Set("Marker", p.Marker)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d a page: %s", most, d)
		}
	}
	if p := pageOf(t, a, url.Values{"MaxItems": {"3"}}); len(p.Users) != 2 || len(p.Groups) != 1 {
		t.Errorf("a page of three: %+v", p)
	}
}

func TestDefaultPageIsAHundred(t *testing.T) {
	a := iam.NewAccount("111122223333")
	for i := range 101 {
		if _, err := a.SetUser(iam.User{Name: "u" + strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if p := pageOf(t, a, nil); len(p.Users) != 100 || !p.Truncated {
		t.Errorf("%d users, truncated %t", len(p.Users), p.Truncated)
	}
}

func TestFilter(t *testing.T) {
	a := filled(t)
	for filter, want := range map[string][4]int{
		"User": {2}, "Group": {0, 1}, "Role": {0, 0, 1}, "LocalManagedPolicy": {0, 0, 0, 1}, "AWSManagedPolicy": {0, 0, 0, 1},
		"User AWSManagedPolicy": {2, 0, 0, 1},
	} {
		form := url.Values{}
		for i, kind := range strings.Fields(filter) {
			form.Set("Filter.member."+strconv.Itoa(i+1), kind)
		}
		p := pageOf(t, a, form)
		if got := [4]int{len(p.Users), len(p.Groups), len(p.Roles), len(p.Policies)}; got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
}

func TestListingRefuses(t *testing.T) {
	a := filled(t)
	ada := wire.Caller{AccountID: "111122223333", ARN: "arn:aws:iam::111122223333:user/team/ada"}
	denied := reader
	denied.Allowed = func(action, resource string) bool {
		return action != "iam:GetAccountAuthorizationDetails" || resource != "*"
	}
	foreign := wire.Caller{AccountID: "444455556666", ARN: "arn:aws:iam::444455556666:user/reader"}
	for name, c := range map[string]struct {
		caller wire.Caller
		form   url.Values
		status int
		want   string
	}{
		"page of none":            {reader, url.Values{"MaxItems": {"0"}}, 400, "ValidationError"},
		"page too large":          {reader, url.Values{"MaxItems": {"1001"}}, 400, "ValidationError"},
		"page of words":           {reader, url.Values{"MaxItems": {"ten"}}, 400, "ValidationError"},
		"kind that is none":       {reader, url.Values{"Filter.member.1": {"Policy"}}, 400, "ValidationError"},
		"marker":                  {reader, url.Values{"Marker": {"x"}}, 400, "Invalid Marker"},
		"another action":          {reader, url.Values{"Action": {"ListUsers"}}, 400, "InvalidAction"},
		"caller that may not":     {denied, nil, 403, "AccessDenied"},
		"user without the policy": {ada, nil, 403, "no identity-based policy allows the iam:GetAccountAuthorizationDetails action"},
		"another account":         {foreign, nil, 403, "AccessDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, body := call(t, a, c.caller, c.form); status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d %s", status, body, c.status, c.want)
			}
		})
	}
}

func TestSetRefuses(t *testing.T) {
	a := filled(t)
	noPrincipal := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole"}}`
	for name, c := range map[string]struct {
		set  func() (string, error)
		want string
	}{
		"no name":          {func() (string, error) { return a.SetUser(iam.User{}) }, "name"},
		"name with spaces": {func() (string, error) { return a.SetGroup(iam.Group{Name: "a b"}) }, "name"},
		"path":             {func() (string, error) { return a.SetUser(iam.User{Name: "u", Path: "/x"}) }, "path"},
		"no such group":    {func() (string, error) { return a.SetUser(iam.User{Name: "u", Groups: []string{"none"}}) }, `group "none"`},
		"no such policy":   {func() (string, error) { return a.SetUser(iam.User{Name: "u", Attached: []string{"arn:x"}}) }, `"arn:x"`},
		"no such boundary": {func() (string, error) {
			return a.SetRole(iam.Role{Name: "r", Trust: byEC2, Boundary: "arn:x"})
		}, `"arn:x"`},
		"malformed inline": {func() (string, error) { return a.SetUser(iam.User{Name: "u", Inline: map[string]string{"p": byEC2}}) }, `inline policy "p"`},
		"no trust":         {func() (string, error) { return a.SetRole(iam.Role{Name: "r"}) }, "trust policy"},
		"trust in nobody":  {func() (string, error) { return a.SetRole(iam.Role{Name: "r", Trust: noPrincipal}) }, "Principal"},
		"trust with a resource": {func() (string, error) {
			return a.SetRole(iam.Role{Name: "r", Trust: `{"Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Resource":"*"}}`})
		}, "prohibited field Resource"},
		"trust in all but": {func() (string, error) {
			return a.SetRole(iam.Role{Name: "r", Trust: `{"Statement":{"Effect":"Deny","NotPrincipal":"*","Action":"sts:AssumeRole"}}`})
		}, "NotPrincipal"},
		"trust with keys": {func() (string, error) {
			return a.SetRole(iam.Role{Name: "r", Trust: `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*"}}`})
		}, "STS"},
		"no version":        {func() (string, error) { return a.SetPolicy(iam.ManagedPolicy{Name: "p"}) }, "version"},
		"malformed version": {func() (string, error) { return a.SetPolicy(iam.ManagedPolicy{Name: "p", Versions: []string{"{}"}}) }, "version v1"},
		"version not there": {func() (string, error) {
			return a.SetPolicy(iam.ManagedPolicy{Name: "p", Versions: []string{decryptAll}, Default: 2})
		}, "v2"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(pageOf(t, a, nil).all())
			if arn, err := c.set(); err == nil || !strings.Contains(err.Error(), c.want) || arn != "" {
				t.Errorf("%q, %v, want an error with %s", arn, err, c.want)
			}
			if after := len(pageOf(t, a, nil).all()); after != before {
				t.Errorf("%d entries, before %d", after, before)
			}
		})
	}
}
