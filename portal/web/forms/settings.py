"""The provider's own settings: name, brand, and what its customers are told."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile

from portal.tenants.models import ServiceProvider
from portal.tenants.provisioning import ProvisioningError, find_logo_type


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]
    logo_file = forms.FileField(
        label="Logo",
        required=False,
        help_text="A PNG or JPEG file of at most 256 KiB. It is shown 40 pixels high.",
        widget=forms.FileInput(attrs={"accept": "image/png,image/jpeg"}),
    )
    remove_logo = forms.BooleanField(label="Remove the logo", required=False)

    class Meta:
        model = ServiceProvider
        fields: ClassVar = ["name", "colour", "support", "send_empty_digests"]
        labels: ClassVar = {
            "name": "Name",
            "colour": "Colour",
            "support": "Whom people ask for help",
            "send_empty_digests": "Send the daily report when nothing is held, too",
        }
        help_texts: ClassVar = {
            "colour": "Text on it turns black or white by itself, so that it can be read.",
            "support": "A phone number or address; shown on every page and in every report.",
        }
        widgets: ClassVar = {"colour": forms.TextInput(attrs={"type": "color"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["send_empty_digests"].widget.attrs["aria-describedby"] = "empty-warning"
        if not self.instance.logo_type:
            del self.fields["remove_logo"]

    def clean_colour(self) -> str:
        return str(self.cleaned_data["colour"]).lower()

    def clean_logo_file(self) -> UploadedFile[Any] | None:
        upload = self.cleaned_data["logo_file"]
        if upload is None:
            return None
        content = upload.read(262_145)
        try:
            self.instance.logo_type = find_logo_type(content)
        except ProvisioningError as error:
            raise ValidationError(str(error).replace("262145 bytes", "more than 256 KiB")) from None
        self.instance.logo = content
        return cast("UploadedFile[Any]", upload)

    def save(self, commit: bool = True) -> ServiceProvider:
        if self.cleaned_data.get("remove_logo") and not self.cleaned_data.get("logo_file"):
            self.instance.logo, self.instance.logo_type = None, ""
        fields = ["name", "colour", "support", "send_empty_digests", "logo", "logo_type"]
        self.instance.save(update_fields=fields)
        return cast(ServiceProvider, self.instance)
